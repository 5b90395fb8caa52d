"""`LSTM`, a drop-in for torch.nn.LSTM: the only place that knows nn.LSTM's arguments.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

from copy import copy
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from . import packing
from .cell import PLAIN, Cell
from .checks import check_plain, check_recompute
from .engines import check_engine
from .functional import State, call_of, padded, traced

OWN = (
    "engine",
    "fuse",
    "recompute",
    "cell",
    "forget_bias",
)  # a module's attributes that nn.LSTM's has not


class LSTM(nn.RNNBase):
    """A multi-layer LSTM: write it where `torch.nn.LSTM` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.LSTM's (gate
    order i, f, g, o). Two arguments are added for how it runs, and some for what it is: each leaves
    nn.LSTM as it is unless it is given.

    Args:
        input_size, ..., dtype: ten, as torch.nn.LSTM has them.
        engine: "loop", "compile", "cudnn", "triton", "native", or "auto": triton on a GPU, native
            on a CPU where it was built, else cudnn.
        fuse: how much one launch covers: "pointwise", "steps" or "layers" for triton and native
            ("none" for loop); None is the engine's highest level.
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
    _nn_lstm_forward: Any = nn.LSTM.forward

    engine: str
    fuse: str | None
    cell: Cell = PLAIN  # so are these three of one that `convert` has made
    forget_bias: float | None = None
    recompute: int | None = None
    _instead: Any = None  # (run, packed) -> what runs in an engine's place: see fused_lstm.opacus

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

    def weights(self) -> list[Tensor]:
        """What `fused_lstm.lstm` takes: lane by lane nn.LSTM's, then the cell's."""
        # Not _flat_weights, which does not see what functional_call or a parametrization puts in.
        names, own = self._flat_weights_names, cast("dict[str, Tensor]", self._parameters)
        try:
            return [own[name] for name in names]  # what getattr would find, in a tenth of its time
        except KeyError:  # a parametrization's
            return [getattr(self, name) for name in names]

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

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """See the class for shapes. Without `hx` both states begin at zero.

        Args:
            lengths: [B] int64, in any order, for rows that end before T: what packing, running and
                padding again would give, without either.
            resets: [T, B] bool, as input is laid out (for a PackedSequence [N], as its data is):
                where true, a row begins anew at that step: neither a state nor a gradient crosses
                between it and the step before, in either direction.
        """
        if isinstance(input, fx.Proxy):  # fx.symbolic_trace: a leaf, as torch.nn's modules are
            path = input.tracer.path_of_module(self)
            return input.tracer.create_proxy("call_module", path, (input, hx, lengths, resets), {})
        if torch.onnx.is_in_onnx_export():
            return self._onnx(input, hx, lengths, resets)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: got some, should be None: a PackedSequence has its own")
            x, batched, packed = self._checked(input.data, (2,)), True, packing.of_packed(input)
            B = packing.rows(input) if hx is None else 0  # hx has it
        else:
            x, batched, lengths, resets = self._time_major(input, lengths, resets)
            packed, B = padded(x, lengths, self.batch_first), x.shape[1]
        state = self._zeros(x, B) if hx is None else self._batched_state(hx, batched)
        weights = self.weights()
        own = self.engine, self.fuse, 1 + self.bidirectional, packed, resets, self.cell
        own = *own, self.training, self.recompute
        run, arguments = call_of(x, state, weights, self.dropout, *own)
        if self._instead is not None:
            run = self._instead(run, packed)
        y, h_n, c_n = run(*arguments)
        y, h_n, c_n = packed.unpack(y), packed.unsort(h_n), packed.unsort(c_n)
        if isinstance(input, PackedSequence):
            y = PackedSequence(y, *input[1:])
        elif not batched:
            return y.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, (h_n, c_n)

    def extra_repr(self) -> str:
        fuse = "" if self.fuse is None else f", fuse={self.fuse!r}"
        options = {"recompute": self.recompute} | self.cell.options()
        options["forget_bias"] = self.forget_bias
        cell = "".join(f", {name}={v!r}" for name, v in options.items() if v is not None)
        return f"{super().extra_repr()}, engine={self.engine!r}{fuse}{cell}"

    def __prepare_scriptable__(self) -> nn.LSTM:
        """What torch.jit.script compiles in this module's place: nn.LSTM on the same parameters."""
        check_plain(self.cell, "nn.LSTM")
        twin: Any = copy(self)
        twin.__class__ = nn.LSTM
        for name in OWN:
            vars(twin).pop(name, None)
        return twin

    def _onnx(self, input: Any, hx: Any, lengths: Tensor | None, resets: Tensor | None) -> Any:
        """ONNX has an operator for nn.LSTM, and none for an engine's."""
        for name, given in {"lengths": lengths, "resets": resets}.items():
            if given is not None:
                raise ValueError(f"{name}: got some, should be None: ONNX's LSTM has none")
        check_plain(self.cell, "ONNX's LSTM")
        return self._nn_lstm_forward(input, hx)

    def _checked(self, x: Tensor, ranks: tuple[int, ...]) -> Tensor:
        if not isinstance(x, Tensor):
            raise ValueError(f"input: got {type(x).__name__}, should be a tensor")
        if x.dim() not in ranks or not (traced() or x.shape[-1] == self.input_size):
            layout = "[B, T, I]" if self.batch_first else "[T, B, I]"
            layouts = f"{layout} or [T, I]" if 3 in ranks else "packed [N, I]"
            raise ValueError(
                f"input: got shape {list(x.shape)}, should be {layouts} with I = {self.input_size}"
            )
        return x

    def _time_major(
        self, input: Tensor, lengths: Tensor | None, resets: Tensor | None
    ) -> tuple[Tensor, bool, Tensor | None, Tensor | None]:
        """These in any of nn.LSTM's layouts -> x [T, B, I], whether it had B, lengths, resets."""
        x = self._checked(input, (2, 3))
        batched = x.dim() == 3
        if not batched:
            x = x.unsqueeze(1)
            lengths = lengths.reshape(-1) if isinstance(lengths, Tensor) else lengths
            resets = resets.unsqueeze(-1) if isinstance(resets, Tensor) else resets
        elif self.batch_first:
            x = x.transpose(0, 1)
            resets = resets.transpose(0, -1) if isinstance(resets, Tensor) else resets
        return x, batched, lengths, resets

    def _zeros(self, x: Tensor, B: int) -> State:
        lanes = self.num_layers * (1 + self.bidirectional)
        c = x.new_zeros(lanes, B, self.hidden_size)
        return x.new_zeros(lanes, B, self.proj_size) if self.proj_size else c, c

    def _batched_state(self, hx: State, batched: bool) -> State:
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            raise ValueError("hx: should be a pair (h_0, c_0)")
        rank, lanes = 3 if batched else 2, self.num_layers * (1 + self.bidirectional)
        sizes = self.proj_size or self.hidden_size, self.hidden_size
        for name, tensor, size in zip(("h_0", "c_0"), hx, sizes, strict=True):
            fits = tensor.dim() == rank
            if fits and not traced():
                fits = (tensor.shape[0], tensor.shape[-1]) == (lanes, size)
            if not fits:
                layout = f"[{lanes}, B, {size}]" if batched else f"[{lanes}, {size}]"
                raise ValueError(f"{name}: got shape {list(tensor.shape)}, should be {layout}")
        h0, c0 = hx
        return (h0, c0) if batched else (h0.unsqueeze(1), c0.unsqueeze(1))
