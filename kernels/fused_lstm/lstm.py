"""`LSTM`, a drop-in for torch.nn.LSTM: the only place that knows nn.LSTM's arguments.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cell import Cell
from .checks import check_plain, check_recompute
from .engines import check_engine
from .functional import State
from .recurrent import Recurrent, listed


class LSTM(Recurrent):
    """A multi-layer LSTM: write it where `torch.nn.LSTM` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.LSTM's (gate
    order i, f, g, o). Two arguments are added for how it runs, and some for what it is: each leaves
    nn.LSTM as it is unless it is given.

    Args:
        input_size, ..., dtype: ten, as torch.nn.LSTM has them.
        engine: "loop", "compile", "cudnn", "triton", "native", or "auto": native on a CPU where it
            was built, else cudnn; on a GPU cudnn, and triton for what nn.LSTM does not have, until
            results of triton's kernels on a GPU are committed: none has run them yet.
        fuse: how much one launch covers: "pointwise", "hoisted", "steps" or "layers" for triton and
            native, "none" or "hoisted" for loop; None is "none" for loop, else the highest.
        layer_norm, peephole, coupled, zoneout, recurrent_dropout, candidate_dropout: the cell, as
            fused_lstm.Cell takes them; docs/cells.md has formulas, papers and the weights that are
            added. The last three fall in training only; outside it zoneout is its expectation.
        forget_bias: what the forget gate's bias starts as; None, as nn.LSTM's.
        recompute: k, for long sequences: keep the state of every k-th step alone for the backward,
            and make the rest again there.

    Raises:
        ValueError: an unknown engine, or a level or a cell that it does not have.

    Shapes:
        input [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence; the
        state, which may be left out, (h_0 [L * D, B, P], c_0 [L * D, B, H]), or without B for
        unbatched input. Returns y and (h_n, c_n) in the same layout. Two arguments of a call are
        added, see `forward`.
    """

    # The forward of nn.LSTM itself, which ONNX has an operator for. Not inherited: torch.compile
    # refuses to trace nn.LSTM and its subclasses.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args
    permute_hidden = nn.LSTM.permute_hidden

    theirs = nn.LSTM
    forget_bias: float | None = None  # of one that `convert` has made

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
        layer_norm: bool = False,
        peephole: bool = False,
        coupled: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        candidate_dropout: float = 0.0,
        forget_bias: float | None = None,
        recompute: int | None = None,
    ) -> None:
        cell = Cell(layer_norm, peephole, coupled, zoneout, recurrent_dropout, candidate_dropout)
        check_engine(engine, fuse, cell.on)
        if recompute is not None:
            check_recompute(recompute)
        if forget_bias is not None and not bias:
            raise ValueError(f"forget_bias: got {forget_bias} with bias=False, should be None")
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype,
        )  # fmt: skip
        self.engine, self.fuse, self.recompute = engine, fuse, recompute
        self.cell, self.forget_bias = cell, forget_bias
        if cell.on:
            self._make_weights()
        self.reset_cell()

    def _make_weights(self) -> None:
        """The cell's parameters, and nn.LSTM's as it has them: lane by lane, in a call's order."""
        H, D, kept = self.hidden_size, 1 + self.bidirectional, dict(self.named_parameters())
        P, stdv = self.proj_size or H, H**-0.5
        self._parameters.clear()
        self._all_weights = []
        for lane in range(self.num_layers * D):
            layer, suffix = lane // D, "_reverse" if lane % D else ""
            I = self.input_size if layer == 0 else D * P
            shapes = self.cell.weights(I, H, P, self.bias, self.proj_size > 0)
            self._all_weights.append([f"{name}_l{layer}{suffix}" for name in shapes])
            for name, shape in zip(self._all_weights[-1], shapes.values(), strict=True):
                if name not in kept or kept[name].shape != shape:
                    kept[name] = nn.Parameter(kept["weight_ih_l0"].new_empty(shape))
                    nn.init.uniform_(kept[name], -stdv, stdv)
                self.register_parameter(name, kept[name])
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.reset_cell()

    @torch.no_grad()
    def reset_cell(self) -> None:
        """Set what does not start as nn.LSTM's weights do: gains 1, c's bias 0, the forget bias."""
        first = 0 if self.cell.coupled else self.hidden_size  # of the rows that decide of f
        for name, parameter in self.named_parameters():
            if name.startswith("gain_"):
                parameter.fill_(1.0)
            elif name.startswith("bias_c_"):
                parameter.zero_()
            elif name.startswith("bias_") and self.forget_bias is not None:
                bias = self.forget_bias if name.startswith("bias_ih") else 0.0
                rows = parameter[first : first + self.hidden_size]
                rows.fill_(-bias if self.cell.coupled else bias)

    def flatten_parameters(self) -> None:
        """For cuDNN, which has nn.LSTM's weights alone."""
        if not self.cell.on:
            super().flatten_parameters()

    def extra_repr(self) -> str:
        own = self.cell.options() | {"forget_bias": self.forget_bias}
        return listed(super().extra_repr(), own)

    def _check_plain(self, who: str) -> None:
        check_plain(self.cell, who)

    def _zeros(self, x: Tensor, B: int) -> State:
        lanes = self.num_layers * (1 + self.bidirectional)
        c = x.new_zeros(lanes, B, self.hidden_size)
        return x.new_zeros(lanes, B, self.proj_size) if self.proj_size else c, c

    def _given(self, hx: State, batched: bool) -> State:
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            raise ValueError("hx: should be a pair (h_0, c_0)")
        h0 = self._with_rows("h_0", hx[0], self.proj_size or self.hidden_size, batched)
        return h0, self._with_rows("c_0", hx[1], self.hidden_size, batched)

    def _state_of(self, h_n: Tensor, c_n: Tensor) -> State:
        return h_n, c_n
