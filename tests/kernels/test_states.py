"""`return_states=True` is refused where no state is kept; tests/conformance has the values."""

from __future__ import annotations

import pytest
import torch

import fused_lstm


def test_who_has_no_states_says_so():
    module = fused_lstm.LSTM(2, 3, engine="loop")
    x = torch.randn(3, 2, 2)
    module.engine = "cudnn"
    with pytest.raises(ValueError, match="return_states: got True with engine='cudnn'"):
        module(x, return_states=True)
    module.engine, module.recompute = "loop", 2
    with pytest.raises(ValueError, match="return_states: got True with recompute"):
        module(x, return_states=True)
