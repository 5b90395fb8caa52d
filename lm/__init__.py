"""A word-level LSTM language model that runs on any engine of `fused_lstm`."""
