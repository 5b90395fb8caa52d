"""Thin modules for other libraries, each an import of its own: nothing here is imported with
`fused_lstm`.

What needs no module, since `fused_lstm.install()` is all: rsl_rl, tianshou, and every library that
makes nn.LSTM, nn.GRU or nn.RNN itself.
"""
