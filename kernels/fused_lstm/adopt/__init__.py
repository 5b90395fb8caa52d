"""Ways into this library for models of torch.nn's layers: `install`, `convert` and `explain`."""
