"""Programs beside the library: what its kernels compile to."""
