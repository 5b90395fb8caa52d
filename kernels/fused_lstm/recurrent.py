"""`Recurrent`: what `LSTM` and `GRU` have in common, a call in any of torch.nn's layouts.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2.
"""

from __future__ import annotations

from copy import copy
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from . import packing
from .cell import PLAIN, Cell
from .checks import check_dense
from .functional import State, call_of, padded, traced
from .ops import in_a_graph

# A module's attributes that torch's has not.
OWN = "engine", "fuse", "recompute", "cell", "forget_bias"


class Recurrent(nn.RNNBase):
    """A module on an engine; a subclass has its cell, and says what its state is."""

    theirs: Any  # torch's
    engine: str
    fuse: str | None
    cell: Cell = PLAIN  # this and the next: of one that `convert` has made
    recompute: int | None = None
    _instead: Any = None  # (run, packed) -> what runs in an engine's place: see fused_lstm.opacus

    def weights(self) -> list[Tensor]:
        """What `fused_lstm.lstm` takes: lane by lane nn.LSTM's, then the cell's."""
        # Not _flat_weights, which does not see what functional_call or a parametrization puts in.
        names, own = self._flat_weights_names, cast("dict[str, Tensor]", self._parameters)
        try:
            return [own[name] for name in names]  # what getattr would find, in a tenth of its time
        except KeyError:  # a parametrization's
            return [getattr(self, name) for name in names]

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | Tensor | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State | Tensor]:
        """See the class for shapes. Without `hx` a state begins at zero.

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
        if in_a_graph() and torch.onnx.is_in_onnx_export():  # which takes a microsecond
            return self._onnx(input, hx, lengths, resets)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: got some, should be None: a PackedSequence has its own")
            x, batched, packed = self._checked(input.data, (2,)), True, packing.of_packed(input)
            B = packing.rows(input) if hx is None else 0  # hx has it
        else:
            x, batched, lengths, resets = self._time_major(input, lengths, resets)
            packed, B = padded(x, lengths, self.batch_first), x.shape[1]
        state = self._zeros(x, B) if hx is None else self._given(hx, batched)
        weights = self.weights()
        own = self.engine, self.fuse, 1 + self.bidirectional, packed, resets, self.cell
        own = *own, self.training, self.recompute
        run, arguments = call_of(x, state, weights, self.dropout, *own)
        if self._instead is not None:
            run = self._instead(run, packed)
        y, h_n, c_n = run(*arguments)
        y, left = packed.unpack(y), (packed.unsort(h_n), packed.unsort(c_n))
        if isinstance(input, PackedSequence):
            y = PackedSequence(y, *input[1:])
        elif not batched:
            y, left = y.squeeze(1), tuple(t.squeeze(1) for t in left)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, self._state_of(*left)

    def extra_repr(self) -> str:
        own = {"engine": self.engine, "fuse": self.fuse, "recompute": self.recompute}
        return listed(super().extra_repr(), own)

    # --- what a subclass says ---

    def _zeros(self, x: Tensor, B: int) -> State:
        """h_0 and c_0 where none is given."""
        raise NotImplementedError

    def _given(self, hx: Any, batched: bool) -> State:
        """h_0 and c_0 [L * D, B, .] of what is."""
        raise NotImplementedError

    def _state_of(self, h_n: Tensor, c_n: Tensor) -> State | Tensor:
        """What a call returns of them."""
        raise NotImplementedError

    def _check_plain(self, who: str) -> None:
        """That it is torch's cell, which is all that `who` has."""

    # --- in torch's other worlds ---

    def __prepare_scriptable__(self) -> nn.RNNBase:
        """What torch.jit.script compiles in this module's place: torch's on the same parameters."""
        self._check_plain(f"nn.{self.mode}")
        twin: Any = copy(self)
        twin.__class__ = self.theirs
        for name in OWN:
            vars(twin).pop(name, None)
        return twin

    def _onnx(self, input: Any, hx: Any, lengths: Tensor | None, resets: Tensor | None) -> Any:
        """ONNX has an operator for nn.LSTM and nn.GRU, and none for an engine's."""
        for name, given in {"lengths": lengths, "resets": resets}.items():
            if given is not None:
                raise ValueError(f"{name}: got some, should be None: ONNX's {self.mode} has none")
        self._check_plain(f"ONNX's {self.mode}")
        return self.theirs.forward(self, input, hx)

    # --- layouts ---

    def _checked(self, x: Tensor, ranks: tuple[int, ...]) -> Tensor:
        check_dense("input", x)
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

    def _with_rows(self, name: str, state: Tensor, size: int, batched: bool) -> Tensor:
        """A state [L * D, B, size], given so or, of unbatched input, without B."""
        check_dense(name, state)
        rank, lanes = 3 if batched else 2, self.num_layers * (1 + self.bidirectional)
        fits = state.dim() == rank
        if fits and not traced():
            fits = (state.shape[0], state.shape[-1]) == (lanes, size)
        if not fits:
            layout = f"[{lanes}, B, {size}]" if batched else f"[{lanes}, {size}]"
            raise ValueError(f"{name}: got shape {list(state.shape)}, should be {layout}")
        return state if batched else state.unsqueeze(1)


def listed(before: str, options: dict) -> str:
    """What a module prints: those of its options that there are."""
    return before + "".join(f", {name}={v!r}" for name, v in options.items() if v is not None)
