"""`LSTM`, `GRU`, `RNN` and their cells: drop-ins for torch.nn's, in all its input layouts.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from ..call import door
from ..call.choose import Facts, cell_pays, check_engine, choose, in_a_graph, may_be_slow
from ..call.layout import TIME_FIRST, State, as_step, batch_of, lay_out, of_step, states_of, zeros
from ..call.record import Call
from ..call.run import check_torchs, run, run_at_the_door
from ..call.spec import Spec, check_size, directions_of
from ..operator import onnx
from ..operator.pullback import is_differentiated

# A module's attributes that torch.nn's does not have.
ADDED = "engine", "fuse", "recompute", "spec", "forget_bias"


def parameters_of(module: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """Return a module's parameters by their names."""
    parameters = cast("dict[str, Tensor]", module._parameters)
    try:
        return [parameters[name] for name in names]  # ten times as fast as getattr
    except KeyError:  # a parametrization
        return [getattr(module, name) for name in names]


class RecurrentBase(nn.RNNBase):
    """The common part of LSTM, GRU and RNN: a call in any of torch.nn's layouts."""

    _torchs: Any  # the class of torch.nn
    engine: str
    fuse: str | None
    spec: Spec  # the cell, its options, layers, directions and which weights a lane has
    recompute: int | None = None  # for a module that `convert` made
    _override: Any = None  # runs a call in the engine's place: see fused_lstm.opacus
    _has_usual_states = True  # h alone, or (h, c), which begin at 0

    def __init__(
        self,
        mode: str,
        spec: Spec,
        input_size: int,
        hidden_size: int,
        batch_first: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        engine: str,
        fuse: str | None,
    ) -> None:
        """Make a module of a Spec.

        Args:
            mode: of nn.RNNBase, which makes torch.nn's weights; a cell of other gates replaces
                them.
            input_size, ..., fuse: as LSTM takes them.
        """
        check_engine(engine, fuse, spec)
        super().__init__(
            mode, input_size, hidden_size, spec.layers, spec.bias, batch_first, spec.dropout,
            spec.directions == 2, proj_size, device, dtype,
        )  # fmt: skip
        self.engine, self.fuse, self.recompute, self.spec = engine, fuse, spec.recompute, spec
        if not spec.is_torchs:
            check_size(spec, hidden_size)
            self._make_weights()
        self.reset_cell()

    @property
    def dropout(self) -> float:
        """Probability of dropping an element of h between two layers, in training."""
        return vars(self)["dropout"]

    @dropout.setter
    def dropout(self, p: float) -> None:
        vars(self)["dropout"] = p
        if "spec" in vars(self):
            self.spec = replace(self.spec, dropout=float(p))

    def _make_weights(self) -> None:
        """Register all parameters lane by lane, torch.nn's first and then the cell's."""
        H, D, kept = self.hidden_size, self.spec.directions, dict(self.named_parameters())
        P, stdv = self.proj_size or H, H**-0.5
        self._parameters.clear()
        self._all_weights = []
        for lane in range(self.num_layers * D):
            layer, suffix = lane // D, "_reverse" if lane % D else ""
            shapes = self.spec.weights(self.input_size if layer == 0 else D * P, H, P)
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
        """Set the weights that torch.nn does not have: gains to 1, an LSTM's bias_c to 0."""
        for name, parameter in self.named_parameters():
            if name.startswith("gain_"):
                parameter.fill_(1.0)
            elif name.startswith("bias_c_"):
                parameter.zero_()

    def _joined(self, h: Tensor, c: Tensor) -> Any:
        """Return a state as a call takes and returns it, of h and of what lies in c."""
        return (h, c) if self.spec.has_c else h

    def flatten_parameters(self) -> None:
        """Flatten the weights for cuDNN, where they are torch.nn's and no others."""
        if "spec" not in vars(self) or self.spec.is_torchs:  # RNNBase.__init__ calls it too
            super().flatten_parameters()

    def weights(self) -> list[Tensor]:
        """Return the weights as `fused_lstm.lstm` takes them: lane by lane, torch.nn's first."""
        # Not _flat_weights, which does not see a functional_call's or a parametrization's tensors.
        return parameters_of(self, self._flat_weights_names)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | Tensor | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run the layers. The class documents shapes; without `hx` the state starts at zero.

        Args:
            lengths: [B] int64, the number of steps of each row, in any order. The result is that of
                packing, running and padding again.
            resets: bool, in the layout of input, [T, B] or [B, T] (for a PackedSequence [N], in the
                order of its data). True where a row starts a new sequence at that step: neither a
                state nor a gradient crosses from the step before, in either direction.
            return_states: return a third value, the state of every layer after every step: h
                [L * D, T, B, P] and an LSTM's c [L * D, T, B, H], with T and B in the order that y
                has them (for a PackedSequence [L * D, N, ...]). c is float32 where the module is in
                half precision. A loss may read them.
        """
        return self._run(input, hx, lengths, resets, return_states)

    def _run(
        self,
        input: Tensor | PackedSequence,
        hx: State | Tensor | None,
        lengths: Tensor | None,
        resets: Tensor | None,
        return_states: bool,
        input_size: int | None = None,
    ) -> Any:
        """Run `forward`, on an input of another size than the module's where that is given."""
        if isinstance(input, fx.Proxy):  # a leaf of fx.symbolic_trace, as torch.nn's modules are
            path, arguments = input.tracer.path_of_module(self), (input, hx, lengths, resets)
            return input.tracer.create_proxy("call_module", path, arguments, {})
        if self._backward_hooks and self._override is None:
            self._refuse_opacus()
        if in_a_graph() and torch.onnx.is_in_onnx_export():  # the second call takes a microsecond
            return self._onnx(input, hx, lengths, resets, return_states)
        size = self.input_size if input_size is None else input_size
        usual = lengths is None and resets is None and not return_states
        if usual and not torch.is_grad_enabled():
            results = self._at_the_door(input, hx, size)
            if results is not None:
                return results
        x, rows, resets, layout = lay_out(input, lengths, resets, size, self.batch_first)
        if hx is None:
            B = x.shape[1] if rows is None else batch_of(input, self.batch_first)
            h0, c0 = self._initial(x, B)
        else:
            h0, c0 = self._state(hx, layout.batched)
        H = self.hidden_size
        P = self.proj_size or H
        call = Call(self.spec, x, h0, c0, self.weights(), return_states, rows, H, P)
        y, h_n, c_n, *states = run(
            call, self.engine, self.fuse, self.training, self.recompute, resets, self._override
        )
        if layout is not TIME_FIRST:
            y, h_n, c_n = layout.output(y), layout.last(h_n), layout.last(c_n)
        last = self._joined(h_n, c_n)
        if not return_states:
            return y, last
        return y, last, self._joined(*map(layout.states, states))

    def extra_repr(self) -> str:
        options = {"engine": self.engine, "fuse": self.fuse, "recompute": self.recompute}
        options |= self.spec.cell_options()
        if (forget_bias := vars(self).get("forget_bias")) is not None:
            options["forget_bias"] = forget_bias
        named = "".join(f", {name}={v!r}" for name, v in options.items() if v is not None)
        return super().extra_repr() + named

    def _at_the_door(self, input: Any, hx: Any, size: int) -> Any:
        """Return the results of inference of a dense batch of rows, or None: `run` is to run it."""
        if self._override is not None or self.recompute is not None or not self._has_usual_states:
            return None
        spec, H = self.spec, self.hidden_size
        lanes, P = spec.layers * spec.directions, self.proj_size or H
        layer = door.Layer(False, self.batch_first, spec.has_c, size, lanes, P, H)
        return run_at_the_door(
            spec, self.engine, self.fuse, self.training, layer, input, hx, self.weights
        )

    # --- states ---

    def _initial(self, x: Tensor, B: int) -> State:
        """Return (h_0, c_0) of a call without a state: zeros."""
        return zeros(self.spec, x, B, self.hidden_size, self.proj_size or self.hidden_size)

    def _state(self, hx: Any, batched: bool) -> State:
        """Return (h_0, c_0) [L * D, B, .] from `hx`."""
        return states_of(self.spec, hx, batched)

    # --- torch.jit.script and ONNX ---

    def _refuse_opacus(self) -> None:
        """Raise where Opacus has hooked itself to this module, which has no gradients by sample."""
        for hook in self._backward_hooks.values():
            owner = getattr(getattr(hook, "func", None), "__self__", None)
            if type(owner).__module__.startswith("opacus."):
                name = type(self).__name__
                raise ValueError(
                    f"module: got fused_lstm.{name} under Opacus; expected"
                    f" fused_lstm.opacus.{name}: import fused_lstm.opacus, and let"
                    " ModuleValidator.fix make it one"
                )

    def __prepare_scriptable__(self) -> nn.RNNBase:
        """Return torch.nn's module on the same parameters, for torch.jit.script to compile."""
        check_torchs(self.spec, f"nn.{self.mode}")
        module: Any = copy(self)
        module.__class__ = self._torchs
        for name in ADDED:
            vars(module).pop(name, None)
        return module

    def _onnx(
        self, input: Any, hx: Any, lengths: Tensor | None, resets: Tensor | None, states: bool
    ) -> Any:
        """Run the call as ONNX's operators, one a layer."""
        if torch.jit.is_tracing():  # TorchScript's exporter, which knows torch.nn's forward alone
            check_torchs(self.spec, f"ONNX's {self.mode} with dynamo=False")
            if lengths is not None or resets is not None:
                raise ValueError("lengths, resets: got a tensor with dynamo=False; expected None")
            return self._torchs.forward(self, input, hx)
        spec = replace(self.spec, training=self.training)
        onnx.check(spec, isinstance(input, PackedSequence), resets, states)
        x, _, _, layout = lay_out(input, None, None, self.input_size, self.batch_first)
        h0, c0 = self._initial(x, x.shape[1]) if hx is None else self._state(hx, layout.batched)
        y, h_n, c_n = onnx.run(spec, x, h0, c0, self.weights(), lengths)
        return layout.output(y), self._joined(layout.last(h_n), layout.last(c_n))


class LSTM(RecurrentBase):
    """A multi-layer LSTM, a drop-in for `torch.nn.LSTM`.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.LSTM's (gate
    order i, f, g, o). The added arguments choose how it runs and which cell it has; their defaults
    are nn.LSTM.

    Args:
        input_size, ..., dtype: the ten arguments of torch.nn.LSTM.
        engine: "loop", "compile", "cudnn", "triton", "native" or "auto". On a CPU "auto" is native
            where it was built, else cudnn. On a GPU it is cudnn, and triton for a call that nn.LSTM
            does not have: no GPU has run triton's kernels yet.
        fuse: how much one launch covers: "pointwise", "hoisted", "steps" or "layers" for triton and
            native, "none" or "hoisted" for loop. None is "none" for loop, else the highest;
            for triton "hoisted" where a plain LSTM of many rows is faster there by arithmetic.
        layer_norm, peephole, coupled, zoneout, recurrent_dropout: options of the cell, as
            fused_lstm.Spec takes them; docs/cells.md has formulas, papers and the added weights.
            The last two act in training only; outside it zoneout is its expectation.
        forget_bias: the initial value of the forget gate's bias; None is nn.LSTM's initialisation.
        reverse: each layer runs from a row's last step to its first; as the second of two
            directions, without the first. Not with bidirectional.
        recompute: k, for long sequences: store the state of every k-th step only, and compute the
            rest again in the backward pass.

    Raises:
        ValueError: the engine is unknown, or does not have the level or the cell.

    Shapes:
        input: [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence.
        state: (h_0 [L * D, B, P], c_0 [L * D, B, H]), without B for unbatched input, or None.
        Returns y and (h_n, c_n) in the same layout. `forward` has three arguments that nn.LSTM's
        does not have.
    """

    # nn.LSTM's forward needs these for ONNX. The class does not derive from nn.LSTM: torch.compile
    # refuses to trace nn.LSTM and its subclasses.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args
    permute_hidden = nn.LSTM.permute_hidden

    _torchs = nn.LSTM
    forget_bias: float | None = None  # for a module that `convert` made

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
        forget_bias: float | None = None,
        num_heads: int = 1,
        reverse: bool = False,
        recompute: int | None = None,
    ) -> None:
        """Make a layer; the class says what the arguments are."""
        spec = Spec(
            "lstm", layer_norm, peephole, coupled, zoneout, recurrent_dropout,
            num_layers, directions_of(bidirectional), bias, proj_size > 0, dropout,
            recompute=recompute, num_heads=num_heads, reverse=reverse,
        )  # fmt: skip
        if forget_bias is not None and not bias:
            raise ValueError(f"forget_bias: got {forget_bias} with bias=False; expected None")
        super().__init__(
            "LSTM", spec, input_size, hidden_size, batch_first, proj_size, device, dtype, engine,
            fuse,
        )  # fmt: skip
        if forget_bias is not None:
            self.forget_bias = forget_bias
            self.reset_cell()

    @torch.no_grad()
    def reset_cell(self) -> None:
        """Set gains to 1, bias_c to 0, and the forget gate's bias to `forget_bias`."""
        super().reset_cell()
        if self.forget_bias is None:
            return
        H = self.hidden_size
        first, sign = (0, -1) if self.spec.coupled else (H, 1)  # the rows that make f
        for name, parameter in self.named_parameters():
            if name.startswith(("bias_ih", "bias_hh")):
                bias = sign * self.forget_bias if name.startswith("bias_ih") else 0.0
                parameter[first : first + H].fill_(bias)


class GRU(RecurrentBase):
    """A multi-layer GRU, a drop-in for `torch.nn.GRU`.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.GRU's (gate order
    r, z, n; Cho et al. 2014, with the reset gate applied after R h and its bias, as in cuDNN).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as torch.nn.GRU.
        engine, fuse, reverse, recompute: as fused_lstm.LSTM.
        layer_norm, zoneout, recurrent_dropout: options of the cell, as fused_lstm.Spec takes them.

    Raises:
        ValueError: the engine is unknown, or does not have the level or the cell.

    Shapes:
        input: [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence.
        state: h_0 [L * D, B, H], without B for unbatched input, or None.
        Returns y and h_n in the same layout. `forward` has three arguments that nn.GRU's does not
        have.
    """

    _torchs = nn.GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        num_heads: int = 1,
        reverse: bool = False,
        recompute: int | None = None,
    ) -> None:
        """Make a layer; the class says what the arguments are."""
        spec = Spec(
            "gru", layer_norm, zoneout=zoneout, recurrent_dropout=recurrent_dropout,
            layers=num_layers, directions=directions_of(bidirectional), bias=bias, dropout=dropout,
            recompute=recompute, num_heads=num_heads, reverse=reverse,
        )  # fmt: skip
        super().__init__(
            "GRU", spec, input_size, hidden_size, batch_first, 0, device, dtype, engine, fuse,
        )  # fmt: skip


class RNN(RecurrentBase):
    """A multi-layer Elman RNN, a drop-in for `torch.nn.RNN`.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.RNN's.

    Args:
        input_size, hidden_size, num_layers, nonlinearity ("tanh" or "relu"), bias, batch_first,
            dropout, bidirectional, device, dtype: as torch.nn.RNN.
        engine, fuse, reverse, recompute: as fused_lstm.LSTM.

    Raises:
        ValueError: the nonlinearity or the engine is unknown, or the level has no RNN.

    Shapes:
        As fused_lstm.GRU.
    """

    _torchs = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
        num_heads: int = 1,
        reverse: bool = False,
        recompute: int | None = None,
    ) -> None:
        """Make a layer; the class says what the arguments are."""
        spec = Spec(
            rnn_of(nonlinearity), layers=num_layers, directions=directions_of(bidirectional),
            bias=bias, dropout=dropout, recompute=recompute, num_heads=num_heads, reverse=reverse,
        )  # fmt: skip
        self.nonlinearity = nonlinearity
        super().__init__(
            spec.cell.upper(), spec, input_size, hidden_size, batch_first, 0, device, dtype, engine,
            fuse,
        )  # fmt: skip


class SLSTM(RecurrentBase):
    """A multi-layer sLSTM: exponential gates, with heads (Beck et al. 2024, "xLSTM").

    A step is, with R in `num_heads` blocks on the diagonal and every line elementwise except the
    first,

        i, f, z, o = W x(t) + R h(t-1) + b                               [B, 4H], in that order
        m(t) = max(log f' + m(t-1), i), where f' is sigma(f), or exp(f) with exponential_forget
        i', f' = exp(i - m(t)), exp(log f' + m(t-1) - m(t))
        c(t) = f' c(t-1) + i' tanh(z);  n(t) = f' n(t-1) + i'
        h(t) = sigma(o) c(t) / n(t)

    m is a stabilizer: h does not depend on it. Parameters are weight_ih_l0 [4H, I], weight_hh_l0
    [4H, H] or of N > 1 heads [N, 4H/N, H/N], and bias_l0 [4H]. `fused_lstm.heads` converts the
    layouts of FlashRNN, xLSTM, TiRex and DreamerV3.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as torch.nn.LSTM.
        num_heads: a divisor of hidden_size.
        exponential_forget: whether the forget gate is exp instead of sigmoid.
        recurrent_clip: as fused_lstm.Spec takes it.
        engine, fuse, reverse, recompute: as fused_lstm.LSTM.

    Raises:
        ValueError: num_heads does not divide hidden_size; an unknown engine, or one that has no
            sLSTM.

    Shapes:
        input [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence; the
        state, which may be left out, (h_0, c_0, n_0, m_0) [L * D, B, H] each, or without B for
        unbatched input. Returns y and (h_n, c_n, n_n, m_n) in the same layout. Three arguments of
        a call are added, see `forward`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        num_heads: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
        exponential_forget: bool = False,
        recurrent_clip: float | None = None,
        reverse: bool = False,
        recompute: int | None = None,
    ) -> None:
        """Make a layer; the class says what the arguments are."""
        spec = Spec(
            "slstm_exponential" if exponential_forget else "slstm", layers=num_layers,
            directions=directions_of(bidirectional), bias=bias, dropout=dropout,
            recompute=recompute, num_heads=num_heads, reverse=reverse,
            recurrent_clip=recurrent_clip,
        )  # fmt: skip
        # An LSTM to RNNBase, which has as many gates; its weights are replaced where they differ.
        super().__init__(
            "LSTM", spec, input_size, hidden_size, batch_first, 0, device, dtype, engine, fuse,
        )  # fmt: skip

    @torch.no_grad()
    def reset_cell(self) -> None:
        """Set biases: those of f from 3 to 6 over the units of a head, all others 0.

        So that the units of a head begin with memories of different lengths (xLSTM's small_init).
        """
        for name, parameter in self.named_parameters():
            if name.startswith(
                "bias_l"
            ):  # RNNBase's own, which come first, are bias_ih and bias_hh
                H, N = self.hidden_size, self.spec.num_heads
                parameter.zero_()
                parameter[H : 2 * H] = torch.linspace(3, 6, H // N).repeat(N)

    def _joined(self, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return h, *c.chunk(3, dim=-1)


# --- cells: one step, one layer ---

SLOW_CELL = Facts(slow_step=True, cell_module=True)


class RecurrentCell(nn.RNNCellBase):
    """The common part of LSTMCell, GRUCell and RNNCell."""

    _torchs: Any  # the class of torch.nn
    kind: str  # of fused_lstm.call.spec.CELLS

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
    ) -> None:
        """Make a cell; the class says what the arguments are."""
        spec = Spec(self.kind, bias=bias)
        check_engine(engine, fuse, spec)
        super().__init__(input_size, hidden_size, bias, spec.gates, device, dtype)
        self.engine, self.fuse, self.spec = engine, fuse, spec

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Run one step: input [B, I] or [I], hx as torch.nn's cell takes it -> the next state."""
        if not torch.is_grad_enabled():
            results = self._at_the_door(input, hx)
            if results is not None:
                return results
        fits = isinstance(input, Tensor) and input.dim() in (1, 2)
        if not fits or not (torch.jit.is_tracing() or input.shape[-1] == self.input_size):
            got = list(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise ValueError(f"input: got {got}; expected [B, I] or [I] with I = {self.input_size}")
        if in_a_graph() and torch.onnx.is_in_onnx_export():
            return self._torchs.forward(self, input, hx)
        batched, has_c, H = input.dim() == 2, self.spec.has_c, self.hidden_size
        parts: Any = ()
        if hx is not None:
            if has_c and (not isinstance(hx, tuple | list) or len(hx) != 2):
                raise ValueError(f"hx: got {type(hx).__name__}; expected a pair (h, c)")
            if not has_c and not isinstance(hx, Tensor):
                raise ValueError(f"hx: got {type(hx).__name__}; expected a tensor, h")
            parts = hx if has_c else (hx,)
            for name, part in zip("hc", parts, strict=False):
                if part.shape != (*input.shape[:-1], H):
                    layout = f"[B, {H}]" if batched else f"[{H}]"
                    raise ValueError(f"{name}: got shape {list(part.shape)}; expected {layout}")
        weights = self._weights()
        if self._is_torchs(input, parts, weights):
            return self._torchs.forward(self, input, hx)
        x = as_step(input, batched)
        if hx is None:
            h0, c0 = zeros(self.spec, x, x.shape[1], H, H)
        else:
            lifted = [as_step(part, batched) for part in parts]
            h0, c0 = lifted[0], lifted[-1]
        call = Call(self.spec, x, h0, c0, weights, hidden_size=H, output_size=H)
        _, h, c = run(call, self.engine, self.fuse, self.training, None)
        h, c = of_step(h, batched), of_step(c, batched)
        return (h, c) if has_c else h

    def _weights(self) -> list[Tensor]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return parameters_of(self, names if self.bias else names[:2])

    def _at_the_door(self, input: Any, hx: Any) -> Any:
        """Return the results of inference of rows [B, I], or None: `forward` is to run them."""
        spec, H = self.spec, self.hidden_size
        layer = door.Layer(True, False, spec.has_c, self.input_size, 1, H, H)
        return run_at_the_door(
            spec, self.engine, self.fuse, self.training, layer, input, hx, self._weights
        )

    def _is_torchs(self, input: Tensor, states: Sequence[Tensor], weights: list[Tensor]) -> bool:
        """Return whether "auto" takes torch's own for a call, which then is faster."""
        if not may_be_slow(self.engine, self.fuse, input.device):
            return False
        B, H = len(input) if input.dim() == 2 else 1, self.hidden_size
        trains = is_differentiated(input, *states, *weights)
        if cell_pays(self.spec.cell, B, self.input_size, H, trains):
            return False
        return choose("auto", None, input.device, self.spec, SLOW_CELL).engine == "cudnn"

    def extra_repr(self) -> str:
        return (
            super().extra_repr()
            + f", engine={self.engine!r}"
            + (f", fuse={self.fuse!r}" if self.fuse is not None else "")
        )

    def __prepare_scriptable__(self) -> nn.RNNCellBase:
        """Return torch.nn's cell on the same parameters, for torch.jit.script to compile."""
        module: Any = copy(self)
        module.__class__ = self._torchs
        for name in ADDED:
            vars(module).pop(name, None)
        return module


class LSTMCell(RecurrentCell):
    """One step of one LSTM layer, a drop-in for `torch.nn.LSTMCell`.

    Args:
        input_size, hidden_size, bias, device, dtype: as torch.nn.LSTMCell.
        engine, fuse: as fused_lstm.LSTM.
    """

    _torchs, kind = nn.LSTMCell, "lstm"


class GRUCell(RecurrentCell):
    """One step of one GRU layer, a drop-in for `torch.nn.GRUCell`.

    Args:
        input_size, hidden_size, bias, device, dtype: as torch.nn.GRUCell.
        engine, fuse: as fused_lstm.LSTM.
    """

    _torchs, kind = nn.GRUCell, "gru"


class RNNCell(RecurrentCell):
    """One step of one RNN layer, a drop-in for `torch.nn.RNNCell`.

    Args:
        input_size, hidden_size, bias, nonlinearity ("tanh" or "relu"), device, dtype: as
            torch.nn.RNNCell.
        engine, fuse: as fused_lstm.LSTM.
    """

    _torchs = nn.RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        engine: str = "auto",
        fuse: str | None = None,
    ) -> None:
        """Make a cell; the class says what the arguments are."""
        self.kind, self.nonlinearity = rnn_of(nonlinearity), nonlinearity
        super().__init__(input_size, hidden_size, bias, device, dtype, engine=engine, fuse=fuse)


def rnn_of(nonlinearity: str) -> str:
    """Return the name of an RNN's cell."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: got {nonlinearity!r}; expected 'tanh' or 'relu'")
    return f"rnn_{nonlinearity}"
