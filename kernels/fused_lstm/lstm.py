"""`LSTM`, a drop-in for torch.nn.LSTM, and `lstm`, the function under it.

The only place that knows nn.LSTM's arguments. An engine (fused_lstm.engines) sees time-major,
batched tensors whose shapes have been checked.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from . import packing
from .autocast import autocast
from .checks import check_lengths, check_resets, check_tensors
from .engines import check_engine, engine_module, resolve
from .packing import Packing
from .rows import keep_of

State = tuple[Tensor, Tensor]


def lstm(
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    engine: str = "auto",
    fuse: str | None = None,
    *,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run an LSTM on weights given at the call (so that they may be tied, masked or computed).

    Args:
        x: [T, B, I]; B may be 0.
        state: (h_0 [L * D, B, P], c_0 [L * D, B, H]); P is H unless h is projected.
        weights: nn.LSTM's, flat: for each layer and direction weight_ih [4H, I or D * P],
            weight_hh [4H, P], all or none bias_ih [4H], bias_hh [4H] and, where h is projected,
            weight_hr [P, H]; gate order i, f, g, o.
        dropout: probability of dropping an element of h between two layers, in this call.
        engine, fuse: see fused_lstm.engines; `fuse=None` is the engine's highest level.
        bidirectional: each layer has two directions, D = 2.
        lengths: [B] int64, in any order: row b ends after step lengths[b].
        resets: [T, B] bool: where true, row b begins anew at step t: neither a state nor a gradient
            crosses between t - 1 and t, in either direction.

    Returns:
        y [T, B, D * P], zero where a row has ended; (h_n, c_n) as the state came, each row's after
        its last step.

    Raises:
        ValueError: an argument's shape, dtype, device or value does not fit; names it.
        RuntimeError: the engine cannot run on x's device; says why.
    """
    packed = _padded(x, lengths)
    run, arguments = _call(
        x, state, list(weights), dropout, engine, fuse, 1 + bidirectional, packed, resets
    )
    y, h_n, c_n = run(*arguments)
    return packed.unpack(y), (packed.unsort(h_n), packed.unsort(c_n))


class LSTM(nn.RNNBase):
    """A multi-layer LSTM: write it where `torch.nn.LSTM` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.LSTM's (gate
    order i, f, g, o); two arguments are added.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype: as torch.nn.LSTM.
        engine: "loop", "compile", "cudnn", "triton", "native", or "auto": triton on a GPU, native
            on a CPU where it was built, else cudnn.
        fuse: how much one launch covers: "pointwise", "steps" or "layers" for triton and native
            ("none" for loop); None is the engine's highest level.

    Raises:
        ValueError: an unknown engine, or a level that it does not have.

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
    _nn_lstm_forward = nn.LSTM.forward

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
    ) -> None:
        check_engine(engine, fuse)
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype,
        )  # fmt: skip
        self.engine, self.fuse = engine, fuse

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
            B = packing.rows(input) if hx is None else None
        else:
            x, batched, lengths, resets = self._time_major(input, lengths, resets)
            packed, B = _padded(x, lengths), x.shape[1]
        state = self._zeros(x, B) if hx is None else self._batched_state(hx, batched)
        dropout = self.dropout if self.training else 0.0
        # Not _flat_weights, which does not see what functional_call or a parametrization puts in.
        weights = [getattr(self, name) for name in self._flat_weights_names]
        own = self.engine, self.fuse, 1 + self.bidirectional
        run, arguments = _call(x, state, weights, dropout, *own, packed, resets)
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
        return f"{super().extra_repr()}, engine={self.engine!r}{fuse}"

    def __prepare_scriptable__(self) -> nn.LSTM:
        """What torch.jit.script compiles in this module's place: nn.LSTM on the same parameters."""
        twin = copy(self)
        twin.__class__ = nn.LSTM
        del twin.engine, twin.fuse
        return twin

    def _onnx(self, input, hx, lengths, resets):
        """ONNX has an operator for nn.LSTM, and none for an engine's."""
        for name, given in {"lengths": lengths, "resets": resets}.items():
            if given is not None:
                raise ValueError(f"{name}: got some, should be None: ONNX's LSTM has none")
        return self._nn_lstm_forward(input, hx)

    def _checked(self, x: Tensor, ranks: tuple[int, ...]) -> Tensor:
        if not isinstance(x, Tensor):
            raise ValueError(f"input: got {type(x).__name__}, should be a tensor")
        if x.dim() not in ranks or not (_traced() or x.shape[-1] == self.input_size):
            layout = "[B, T, I]" if self.batch_first else "[T, B, I]"
            layouts = f"{layout} or [T, I]" if 3 in ranks else "packed [N, I]"
            raise ValueError(
                f"input: got shape {list(x.shape)}, should be {layouts} with I = {self.input_size}"
            )
        return x

    def _time_major(self, input: Tensor, lengths: Tensor | None, resets: Tensor | None):
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
            if fits and not _traced():
                fits = (tensor.shape[0], tensor.shape[-1]) == (lanes, size)
            if not fits:
                layout = f"[{lanes}, B, {size}]" if batched else f"[{lanes}, {size}]"
                raise ValueError(f"{name}: got shape {list(tensor.shape)}, should be {layout}")
        h0, c0 = hx
        return (h0, c0) if batched else (h0.unsqueeze(1), c0.unsqueeze(1))


def _traced() -> bool:
    """Whether torch.jit.trace runs this: sizes are then tensors, whose comparison it warns of."""
    return torch.jit.is_tracing()


def _padded(x: Tensor, lengths: Tensor | None) -> Packing:
    """How rows [T, B, ...] that end early are packed."""
    if lengths is None:
        return Packing()
    T, B = x.shape[:2]
    check_lengths(lengths, T, B)
    return packing.of_padded(T, B, lengths, x.device)


def _call(
    x, state, weights, dropout, engine, fuse, directions, packed: Packing, resets
) -> tuple[Callable, tuple]:
    """The engine's function for these arguments of `lstm`, and its own, checked and cast."""
    (h0, c0), is_packed = state, packed.batch_sizes is not None and packed.places is None
    traced = _traced()
    if not traced:
        B = h0.shape[1] if is_packed else x.shape[1]
        if is_packed and not torch.compiler.is_compiling():  # a graph does not know it
            B = int(packed.batch_sizes[0])
        check_tensors(x, h0, c0, weights, directions, B, is_packed)
    if resets is not None:
        check_resets(resets, x)
    asked, (engine, fuse) = engine, resolve(engine, fuse, x.device)
    # A batch of none: nothing to fuse, shapes, and gradients of zero.
    if not (traced or is_packed) and h0.shape[1] == 0:
        engine, fuse = "loop", "none"
    if resets is not None and engine == "cudnn" and asked == "auto":  # which has none
        engine, fuse = "loop", "none"
    x, h0, c0, *weights = autocast(x, h0, c0, *weights)
    x, h0, c0, keep = packed.pack(x), packed.sort(h0), packed.sort(c0), None
    if resets is not None:
        keep = keep_of(packed.pack(resets), directions, h0.shape[1], packed.batch_sizes)
    lanes = directions, packed.batch_sizes, keep
    return engine_module(engine).lstm, (x, h0, c0, weights, dropout, fuse, *lanes)
