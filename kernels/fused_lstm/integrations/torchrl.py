"""TorchRL's LSTMModule and GRUModule with is_init as `resets=`: no split and no padding.

    from fused_lstm.integrations.torchrl import LSTMModule  # where torchrl.modules' stood

Arguments, keys, parameters and state_dict are TorchRL's. In recurrent mode a batch [B, T] runs in
one call: where `is_init` is true the state begins at zero. The state after every step is set, as by
recurrent_backend="scan". `fused_lstm.install()` alone makes torchrl.modules.LSTMModule itself run
ours, behind its split and pad.

T, B, I, H, L: time steps, rows, input size, hidden size, layers.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchrl.modules import GRUModule as TorchGRUModule
from torchrl.modules import LSTMModule as TorchLSTMModule

from ..call.run import lstm
from ..call.spec import GRU, PLAIN, Spec

__all__ = ["LSTMModule", "GRUModule"]


class LSTMModule(TorchLSTMModule):
    """torchrl.modules.LSTMModule; its arguments, except recurrent_backend and what goes with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recurrent_backend = "scan"  # whose function is replaced here

    def _lstm_scan_with_resets(
        self,
        input: Tensor,
        h_in: Tensor,
        c_in: Tensor,
        state: tuple[Tensor, Tensor],
        is_init: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run x [B, T, I]; h_in, c_in [B, T, L, H] are what a row would begin anew with."""
        resets = resets_of(is_init, h_in, c_in)
        if resets is None:
            return super()._lstm_scan_with_resets(input, h_in, c_in, state, is_init)
        return run(PLAIN, self.lstm, input, state, resets)


class GRUModule(TorchGRUModule):
    """torchrl.modules.GRUModule; its arguments, except recurrent_backend and what goes with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recurrent_backend = "scan"

    def _gru_scan_with_resets(
        self, input: Tensor, h_in: Tensor, state: Tensor, is_init: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run x [B, T, I]; h_in [B, T, L, H] is what a row would begin anew with."""
        resets = resets_of(is_init, h_in)
        if resets is None:
            return super()._gru_scan_with_resets(input, h_in, state, is_init)
        y, h, _ = run(GRU, self.gru, input, (state, state), resets)
        return y, h


def resets_of(is_init: Tensor, *states: Tensor) -> Tensor | None:
    """Return [B, T], where a row begins anew at zero; None where one begins with another state.

    At step 0 every row begins with the state of that step.
    """
    resets = is_init.clone()
    resets[:, 0] = False
    begun = [state[resets] for state in states]
    return resets if not any(state.any() for state in begun) else None


def run(
    cell: Spec, layer: Any, x: Tensor, state: tuple[Tensor, Tensor], resets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [B, T, H], and h and c after every step [B, T, L, H]."""
    dropout = layer.dropout if layer.training else 0.0
    y, _, (h, c) = lstm(
        x.transpose(0, 1), state, layer._flat_weights, dropout, resets=resets.T, cell=cell,
        training=layer.training, return_states=True, bidirectional=layer.bidirectional,
    )  # fmt: skip
    h, c = (s.permute(2, 1, 0, 3).to(x.dtype) for s in (h, c))
    return y.transpose(0, 1), h, c
