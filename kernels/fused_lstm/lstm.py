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

from .autocast import autocast, autocasts
from .engines import check_engine, engine_module, resolve

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    engine: str = "auto",
    fuse: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run an LSTM on weights given at the call (so that they may be tied, masked or computed).

    Args:
        x: [T, B, I]; B may be 0.
        state: (h_0, c_0), each [L, B, H].
        weights: nn.LSTM's, flat: for each layer weight_ih [4H, I or H], weight_hh [4H, H] and,
            all or none, bias_ih [4H], bias_hh [4H]; gate order i, f, g, o.
        dropout: probability of dropping an element of h between two layers, in this call.
        engine, fuse: see fused_lstm.engines; `fuse=None` is the engine's highest level.

    Returns:
        y [T, B, H], (h_n [L, B, H], c_n [L, B, H]).

    Raises:
        ValueError: an argument's shape, dtype or device does not fit; names it.
        RuntimeError: the engine cannot run on x's device; says why.
    """
    run, arguments = _call(x, state, list(weights), dropout, engine, fuse)
    y, h_n, c_n = run(*arguments)
    return y, (h_n, c_n)


class LSTM(nn.RNNBase):
    """A multi-layer LSTM: write it where `torch.nn.LSTM` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.LSTM's (gate
    order i, f, g, o); two arguments are added.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype: as torch.nn.LSTM.
        engine: "loop", "compile", "cudnn", "triton", "native", or "auto": triton on a GPU, native
            on a CPU where it was built, else cudnn. bidirectional, proj_size and packed sequences
            need "cudnn", and "auto" takes it for them.
        fuse: how much one launch covers: "pointwise", "steps" or "layers" for triton and native
            ("none" for loop); None is the engine's highest level.

    Raises:
        ValueError: an unknown engine, a level it does not have, or an option it does not offer.

    Shapes:
        input [T, B, I], [B, T, I] with batch_first, or unbatched [T, I]; the state, which may be
        left out, (h_0, c_0) of [L, B, H], or [L, H] for unbatched input. Returns y and (h_n, c_n)
        in the same layout.
    """

    # The checks and the forward of nn.LSTM itself, for engine="cudnn". Not inherited: torch.compile
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
        self._only_cudnn(None)

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """See the class for shapes. Without `hx` both states begin at zero."""
        if isinstance(input, fx.Proxy):  # fx.symbolic_trace: a leaf, as torch.nn's modules are
            path = input.tracer.path_of_module(self)
            return input.tracer.create_proxy("call_module", path, (input, hx), {})
        # ONNX has an operator for nn.LSTM, and none for an engine's.
        if self._only_cudnn(input) or torch.onnx.is_in_onnx_export():
            return self._nn_lstm_forward(input, hx)
        x, batched = self._time_major(input)
        state = self._zeros(x) if hx is None else self._batched_state(hx, batched)
        dropout = self.dropout if self.training else 0.0
        # Not _flat_weights, which does not see what functional_call or a parametrization puts in.
        weights = [getattr(self, name) for name in self._flat_weights_names]
        run, arguments = _call(x, state, weights, dropout, self.engine, self.fuse)
        y, h_n, c_n = run(*arguments)
        if not batched:
            return y.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return y.transpose(0, 1) if self.batch_first else y, (h_n, c_n)

    def extra_repr(self) -> str:
        fuse = "" if self.fuse is None else f", fuse={self.fuse!r}"
        return f"{super().extra_repr()}, engine={self.engine!r}{fuse}"

    def __prepare_scriptable__(self) -> nn.LSTM:
        """What torch.jit.script compiles in this module's place: nn.LSTM on the same parameters."""
        twin = copy(self)
        twin.__class__ = nn.LSTM
        del twin.engine, twin.fuse
        return twin

    def _only_cudnn(self, input: Tensor | PackedSequence | None) -> bool:
        """Whether nn.LSTM runs the whole call; an error if it would have to and may not."""
        needs = {
            "bidirectional=True": self.bidirectional,
            "proj_size > 0": self.proj_size > 0,
            "a packed sequence": isinstance(input, PackedSequence),
        }
        wanted = [option for option, used in needs.items() if used]
        if wanted and self.engine not in ("cudnn", "auto"):
            raise ValueError(
                f"engine {self.engine!r} does not offer {wanted[0]} yet; engine='cudnn' does"
            )
        return bool(wanted)

    def _time_major(self, input: Tensor) -> tuple[Tensor, bool]:
        """input in any of nn.LSTM's layouts -> [T, B, I] and whether it had a batch."""
        if not isinstance(input, Tensor):
            raise ValueError(f"input: got {type(input).__name__}, should be a tensor")
        fits = input.dim() in (2, 3) and (_traced() or input.shape[-1] == self.input_size)
        if not fits:
            layout = "[B, T, I]" if self.batch_first else "[T, B, I]"
            raise ValueError(
                f"input: got shape {list(input.shape)}, should be {layout} or [T, I]"
                f" with I = {self.input_size}"
            )
        if input.dim() == 2:
            return input.unsqueeze(1), False
        return input.transpose(0, 1) if self.batch_first else input, True

    def _zeros(self, x: Tensor) -> tuple[Tensor, Tensor]:
        zeros = x.new_zeros(self.num_layers, x.shape[1], self.hidden_size)
        return zeros, zeros

    def _batched_state(self, hx: tuple[Tensor, Tensor], batched: bool) -> tuple[Tensor, Tensor]:
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            raise ValueError("hx: should be a pair (h_0, c_0)")
        rank = 3 if batched else 2
        for name, tensor in zip(("h_0", "c_0"), hx, strict=True):
            if tensor.dim() != rank:
                layout = "[L, B, H]" if batched else "[L, H]"
                raise ValueError(f"{name}: got shape {list(tensor.shape)}, should be {layout}")
        h0, c0 = hx
        return (h0, c0) if batched else (h0.unsqueeze(1), c0.unsqueeze(1))


def _call(x, state, weights, dropout, engine, fuse) -> tuple[Callable, tuple]:
    """The engine's function for these arguments of `lstm`, and its own, checked and cast."""
    h0, c0 = state
    if not _traced():
        _check(x, h0, c0, weights)
    engine, fuse = resolve(engine, fuse, x.device)
    if not _traced() and x.shape[1] == 0:  # nothing to fuse: shapes, and gradients of zero
        engine, fuse = "loop", "none"
    x, h0, c0, *weights = autocast(x, h0, c0, *weights)
    return engine_module(engine).lstm, (x, h0, c0, weights, dropout, fuse)


def _traced() -> bool:
    """Whether torch.jit.trace runs this: sizes are then tensors, whose comparison it warns of."""
    return torch.jit.is_tracing()


def _check(x: Tensor, h0: Tensor, c0: Tensor, weights: list[Tensor]) -> None:
    """Raise ValueError, naming the argument, unless an engine can run on these."""
    if x.dim() != 3 or 0 in (x.shape[0], x.shape[2]):
        raise ValueError(f"x: got shape {list(x.shape)}, should be [T, B, I], T and I not 0")
    if x.dtype not in DTYPES:
        raise ValueError(f"x: got dtype {x.dtype}, should be one of {', '.join(map(str, DTYPES))}")
    if h0.dim() != 3 or h0.shape[0] == 0 or len(weights) not in (2 * len(h0), 4 * len(h0)):
        raise ValueError(
            f"h_0: got shape {list(h0.shape)} for {len(weights)} weights, should be [L, B, H]"
            " with two weights a layer, or four with biases"
        )
    L, _, H = h0.shape
    expected = [("h_0", h0, [L, x.shape[1], H]), ("c_0", c0, [L, x.shape[1], H])]
    per_layer = len(weights) // L
    for n, weight in enumerate(weights):
        layer, kind = n // per_layer, n % per_layer  # torch.compile has no divmod of a symbol
        name = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[kind]
        columns = [[x.shape[2] if layer == 0 else H], [H], [], []][kind]
        expected.append((f"{name}_l{layer}", weight, [4 * H, *columns]))
    cast = autocasts(x.device)
    for name, tensor, shape in expected:
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: got shape {list(tensor.shape)}, should be {shape}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: on {tensor.device}, should be on {x.device}, as x is")
        if tensor.dtype != x.dtype and not cast:
            raise ValueError(f"{name}: got dtype {tensor.dtype}, should be {x.dtype}, as x's")
