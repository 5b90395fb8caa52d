"""`LSTM`, `GRU`, `RNN` and their cells, drop-ins for torch.nn's: the arguments and the layouts.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from . import varlen
from .engines import check_engine, in_a_graph
from .functional import State, call, check_dense, check_torchs, padded, unpacked_states
from .spec import Spec

# A module's attributes that torch's has not.
ADDED = "engine", "fuse", "recompute", "spec", "forget_bias"


class Recurrent(nn.RNNBase):
    """What the three have in common: a call in any of torch.nn's layouts."""

    torchs: Any  # torch's class
    engine: str
    fuse: str | None
    spec: Spec  # the cell, its options, layers, directions and which weights a lane has
    recompute: int | None = None  # of one that `convert` has made
    _instead: Any = None  # (engine's name, its function) -> what runs: see fused_lstm.opacus

    @property
    def dropout(self) -> float:
        """Probability of dropping an element of h between two layers, in training."""
        return vars(self)["dropout"]

    @dropout.setter
    def dropout(self, p: float) -> None:
        vars(self)["dropout"] = p
        if "spec" in vars(self):
            self.spec = replace(self.spec, dropout=float(p))

    def _set_up(self, spec: Spec, engine: str, fuse: str | None, recompute: int | None) -> None:
        self.engine, self.fuse, self.recompute, self.spec = engine, fuse, recompute, spec
        if not spec.is_torchs:
            spec.check_size(self.hidden_size)
            self._make_weights()

    def _make_weights(self) -> None:
        """Make the cell's parameters beside torch's: lane by lane, in a call's order."""
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
        """Set what does not start as torch.nn's weights do: gains are 1, an LSTM's bias_c is 0."""
        for name, parameter in self.named_parameters():
            if name.startswith("gain_"):
                parameter.fill_(1.0)
            elif name.startswith("bias_c_"):
                parameter.zero_()

    def _joined(self, h: Tensor, c: Tensor) -> Any:
        """Return a state as a call takes and returns it, of h and of what lies in c."""
        return (h, c) if self.spec.has_c else h

    def flatten_parameters(self) -> None:
        """For cuDNN, which has torch.nn's weights alone."""
        if "spec" not in vars(self) or self.spec.is_torchs:  # RNNBase calls it while it is made
            super().flatten_parameters()

    def weights(self) -> list[Tensor]:
        """Return what `fused_lstm.lstm` takes: lane by lane torch.nn's weights, then the cell's."""
        # Not _flat_weights, which does not see what functional_call or a parametrization puts in.
        names, parameters = self._flat_weights_names, cast("dict[str, Tensor]", self._parameters)
        try:
            return [parameters[name] for name in names]  # as getattr finds them, ten times as fast
        except KeyError:  # a parametrization's
            return [getattr(self, name) for name in names]

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | Tensor | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        """See the class for shapes. Without `hx` a state begins at zero.

        Args:
            lengths: [B] int64, in any order, for rows that end before T: what packing, running and
                padding again would give, without either.
            resets: [T, B] bool, as input is laid out (for a PackedSequence [N], as its data is):
                where true, a row begins anew at that step: neither a state nor a gradient crosses
                between it and the step before, in either direction.
            return_states: return a third value, the state of every layer after every step, as hx
                is: h [L * D, T, B, P], and an LSTM's c [L * D, T, B, H]; their last dimensions but
                one as y has them (of a PackedSequence [L * D, N, ...]). c is in float32 where the
                module is of half precision. A gradient by them is fused_lstm.reference's.
        """
        if isinstance(input, fx.Proxy):  # fx.symbolic_trace: a leaf, as torch.nn's modules are
            path, arguments = input.tracer.path_of_module(self), (input, hx, lengths, resets)
            return input.tracer.create_proxy("call_module", path, arguments, {})
        if in_a_graph() and torch.onnx.is_in_onnx_export():  # which takes a microsecond
            return self._onnx(input, hx, lengths, resets)
        batched, rows = True, None
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: got some; expected None: a PackedSequence has its own")
            x, rows = input.data, varlen.of_packed(input)
            self._check_input(x, (2,))
        else:
            self._check_input(input, (2, 3))
            x, batched = input, input.dim() == 3
            if not batched:
                x = x.unsqueeze(1)
                lengths = lengths.reshape(-1) if isinstance(lengths, Tensor) else lengths
                resets = resets.unsqueeze(-1) if isinstance(resets, Tensor) else resets
            elif self.batch_first:
                x = x.transpose(0, 1)
                resets = resets.transpose(0, -1) if isinstance(resets, Tensor) else resets
            if lengths is not None:
                rows = padded(x, lengths, self.batch_first)
        spec, H = self.spec, self.hidden_size
        P = self.proj_size or H
        if hx is None:
            B = varlen.rows_of(input) if isinstance(input, PackedSequence) else x.shape[1]
            lanes = spec.layers * spec.directions
            c0 = x.new_zeros(lanes, B, H * spec.c_parts)
            h0 = x.new_zeros(lanes, B, P) if c0.shape[2] != P else c0
        elif type(hx) is tuple and len(hx) == 2 == len(spec.states) and batched:
            h0, c0 = hx
        else:
            h0, c0 = self._state(hx, batched)
        for name, tensor in (("h_0", h0), ("c_0", c0)):
            if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.is_nested:
                check_dense(name, tensor)
        y, h_n, c_n, *states = call(
            spec, x, h0, c0, self.weights(), H, P, self.engine, self.fuse,
            self.training, self.recompute, rows, resets, return_states, self._instead,
        )  # fmt: skip
        packed = isinstance(input, PackedSequence)
        if rows is not None:
            y, h_n, c_n = rows.unpack(y), rows.unsort(h_n), rows.unsort(c_n)
            states = [unpacked_states(rows, s) for s in states]
        if not batched:
            y, h_n, c_n = y.squeeze(1), h_n.squeeze(1), c_n.squeeze(1)
            states = [s.squeeze(2) for s in states]
        elif self.batch_first and not packed:
            y, states = y.transpose(0, 1), [s.transpose(1, 2) for s in states]
        output = PackedSequence(y, *input[1:]) if packed else y
        last = self._joined(h_n, c_n)
        return (output, last, self._joined(*states)) if return_states else (output, last)

    def extra_repr(self) -> str:
        options = {"engine": self.engine, "fuse": self.fuse, "recompute": self.recompute}
        options |= self.spec.cell_options()
        if (forget_bias := vars(self).get("forget_bias")) is not None:
            options["forget_bias"] = forget_bias
        named = "".join(f", {name}={v!r}" for name, v in options.items() if v is not None)
        return super().extra_repr() + named

    # --- states ---

    def _state(self, hx: Any, batched: bool) -> State:
        """Return h_0 and c_0 [L * D, B, .] of a call's `hx`; without a c h_0 twice."""
        names = [f"{name}_0" for name in self.spec.states]
        if self.spec.has_c:
            if not isinstance(hx, tuple | list) or len(hx) != len(names):
                many = "a pair" if len(names) == 2 else "four"
                expected = f"{many} ({', '.join(names)})"
                raise ValueError(f"hx: got {type(hx).__name__}; expected {expected}")
        elif not isinstance(hx, Tensor):
            raise ValueError(f"hx: got {type(hx).__name__}; expected a tensor, h_0")
        parts: Any = hx if self.spec.has_c else (hx,)
        for name, part in zip(names, parts, strict=True):
            check_dense(name, part)
            if not batched and part.dim() != 2:
                raise ValueError(f"{name}: got shape {list(part.shape)}; expected [L * D, H]")
            if len(names) > 2 and part.shape != parts[0].shape:
                got, expected = list(part.shape), list(parts[0].shape)
                raise ValueError(f"{name}: got shape {got}; expected h_0's, {expected}")
        parts = [part if batched else part.unsqueeze(1) for part in parts]
        return parts[0], parts[-1] if len(parts) < 3 else torch.cat(parts[1:], dim=-1)

    def _check_input(self, x: Tensor, ranks: tuple[int, ...]) -> None:
        if not isinstance(x, Tensor) or x.layout is not torch.strided or x.is_nested:
            check_dense("input", x)
        # torch.jit.trace's sizes are tensors, whose comparison it warns of.
        if x.dim() not in ranks or not (torch.jit.is_tracing() or x.shape[-1] == self.input_size):
            layout = "[B, T, I]" if self.batch_first else "[T, B, I]"
            layouts = f"{layout} or [T, I]" if 3 in ranks else "packed [N, I]"
            raise ValueError(
                f"input: got shape {list(x.shape)}; expected {layouts} with I = {self.input_size}"
            )

    # --- in torch's other worlds ---

    def __prepare_scriptable__(self) -> nn.RNNBase:
        """Return what torch.jit.script compiles in its place: torch's on the same parameters."""
        check_torchs(self.spec, f"nn.{self.mode}")
        module: Any = copy(self)
        module.__class__ = self.torchs
        for name in ADDED:
            vars(module).pop(name, None)
        return module

    def _onnx(self, input: Any, hx: Any, lengths: Tensor | None, resets: Tensor | None) -> Any:
        """ONNX has an operator for nn.LSTM, nn.GRU and nn.RNN, and none for an engine's."""
        for name, value in {"lengths": lengths, "resets": resets}.items():
            if value is not None:
                raise ValueError(f"{name}: got some; expected None: ONNX's {self.mode} has none")
        check_torchs(self.spec, f"ONNX's {self.mode}")
        return self.torchs.forward(self, input, hx)


class LSTM(Recurrent):
    """A multi-layer LSTM: write it where `torch.nn.LSTM` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.LSTM's (gate
    order i, f, g, o). Two arguments are added for how it runs, and some for what it is: each leaves
    nn.LSTM as it is unless it is given.

    Args:
        input_size, ..., dtype: ten, as torch.nn.LSTM has them.
        engine: "loop", "compile", "cudnn", "triton", "native", or "auto": on a CPU native where it
            was built, else cudnn; on a GPU cudnn, and triton for what nn.LSTM does not have, until
            results of triton's kernels on a GPU are committed: none has run them yet.
        fuse: how much one launch covers: "pointwise", "hoisted", "steps" or "layers" for triton and
            native, "none" or "hoisted" for loop; None is "none" for loop, else the highest.
        layer_norm, peephole, coupled, zoneout, recurrent_dropout, candidate_dropout: the cell, as
            fused_lstm.Spec takes them; docs/cells.md has formulas, papers and the weights that are
            added. The last three fall in training only; outside it zoneout is its expectation.
        forget_bias: what the forget gate's bias starts as; None, as nn.LSTM's.
        recompute: k, for long sequences: keep the state of every k-th step alone for the backward,
            and make the rest again there.

    Raises:
        ValueError: an unknown engine, or a level or a cell that it does not have.

    Shapes:
        input [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence; the
        state, which may be left out, (h_0 [L * D, B, P], c_0 [L * D, B, H]), or without B for
        unbatched input. Returns y and (h_n, c_n) in the same layout. Three arguments of a call are
        added, see `forward`.
    """

    # The forward of nn.LSTM itself, which ONNX has an operator for. Not inherited: torch.compile
    # refuses to trace nn.LSTM and its subclasses.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args
    permute_hidden = nn.LSTM.permute_hidden

    torchs = nn.LSTM
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
        num_heads: int = 1,
        recompute: int | None = None,
    ) -> None:
        spec = Spec(
            "lstm", layer_norm, peephole, coupled, zoneout, recurrent_dropout, candidate_dropout,
            num_layers, 1 + bool(bidirectional), bias, proj_size > 0, dropout, recompute=recompute,
            num_heads=num_heads,
        )  # fmt: skip
        check_engine(engine, fuse, spec)
        if forget_bias is not None and not bias:
            raise ValueError(f"forget_bias: got {forget_bias} with bias=False; expected None")
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype,
        )  # fmt: skip
        self._set_up(spec, engine, fuse, recompute)
        self.forget_bias = forget_bias
        self.reset_cell()

    @torch.no_grad()
    def reset_cell(self) -> None:
        """Set what does not start as nn.LSTM's weights: gains 1, bias_c 0, and the forget bias."""
        super().reset_cell()
        if self.forget_bias is None:
            return
        H = self.hidden_size
        first, sign = (0, -1) if self.spec.coupled else (H, 1)  # the rows that decide of f
        for name, parameter in self.named_parameters():
            if name.startswith(("bias_ih", "bias_hh")):
                bias = sign * self.forget_bias if name.startswith("bias_ih") else 0.0
                parameter[first : first + H].fill_(bias)


class GRU(Recurrent):
    """A multi-layer GRU: write it where `torch.nn.GRU` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.GRU's (gate order
    r, z, n; Cho et al. 2014, with the reset gate behind R h and its bias, as cuDNN has it).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device,
            dtype: as torch.nn.GRU.
        engine, fuse, recompute: as fused_lstm.LSTM.
        layer_norm, zoneout, recurrent_dropout: the cell, as fused_lstm.Spec takes them.

    Raises:
        ValueError: an unknown engine, or a level or a cell that it does not have.

    Shapes:
        input [T, B, I], [B, T, I] with batch_first, unbatched [T, I], or a PackedSequence; the
        state, which may be left out, h_0 [L * D, B, H], or without B for unbatched input. Returns
        y and h_n in the same layout. Three arguments of a call are added, see `forward`.
    """

    torchs = nn.GRU

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
        recompute: int | None = None,
    ) -> None:
        spec = Spec(
            "gru", layer_norm, zoneout=zoneout, recurrent_dropout=recurrent_dropout,
            layers=num_layers, directions=1 + bool(bidirectional), bias=bias, dropout=dropout,
            recompute=recompute, num_heads=num_heads,
        )  # fmt: skip
        check_engine(engine, fuse, spec)
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self._set_up(spec, engine, fuse, recompute)
        self.reset_cell()


class RNN(Recurrent):
    """A multi-layer Elman RNN: write it where `torch.nn.RNN` stood.

    Arguments, parameters, initialisation, state_dict, inputs and outputs are nn.RNN's.

    Args:
        input_size, hidden_size, num_layers, nonlinearity ("tanh" or "relu"), bias, batch_first,
            dropout, bidirectional, device, dtype: as torch.nn.RNN.
        engine, fuse, recompute: as fused_lstm.LSTM.

    Raises:
        ValueError: an unknown nonlinearity or engine, or a level that has no RNN.

    Shapes:
        as fused_lstm.GRU.
    """

    torchs = nn.RNN

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
        recompute: int | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: got {nonlinearity!r}; expected 'tanh' or 'relu'")
        spec = Spec(
            f"rnn_{nonlinearity}", layers=num_layers, directions=1 + bool(bidirectional), bias=bias,
            dropout=dropout, recompute=recompute, num_heads=num_heads,
        )  # fmt: skip
        check_engine(engine, fuse, spec)
        super().__init__(
            spec.cell.upper(), input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity
        self._set_up(spec, engine, fuse, recompute)


class SLSTM(Recurrent):
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
        exponential_forget, recurrent_clip: as fused_lstm.Spec takes them.
        engine, fuse, recompute: as fused_lstm.LSTM.

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
        recompute: int | None = None,
    ) -> None:
        spec = Spec(
            "slstm", layers=num_layers, directions=1 + bool(bidirectional), bias=bias,
            dropout=dropout, recompute=recompute, num_heads=num_heads,
            exponential_forget=exponential_forget, recurrent_clip=recurrent_clip,
        )  # fmt: skip
        check_engine(engine, fuse, spec)
        # An LSTM to RNNBase, which has as many gates; its weights are replaced where they differ.
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self._set_up(spec, engine, fuse, recompute)
        self.reset_cell()

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


class RecurrentCell(nn.RNNCellBase):
    """What the three cells have in common."""

    torchs: Any
    engine: str
    fuse: str | None
    spec: Spec

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Make one step: input [B, I] or [I], hx as torch.nn's cell -> its next state."""
        if not isinstance(input, Tensor) or input.dim() not in (1, 2):
            got = list(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise ValueError(f"input: got {got}; expected [B, I] or [I] with I = {self.input_size}")
        if in_a_graph() and torch.onnx.is_in_onnx_export():
            return self.torchs.forward(self, input, hx)
        batched, has_c, H = input.dim() == 2, self.spec.has_c, self.hidden_size
        x = input[None] if batched else input[None, None]
        if hx is None:
            h0 = c0 = x.new_zeros(1, x.shape[1], H)
        else:
            if has_c and (not isinstance(hx, tuple | list) or len(hx) != 2):
                raise ValueError(f"hx: got {type(hx).__name__}; expected a pair (h, c)")
            if not has_c and not isinstance(hx, Tensor):
                raise ValueError(f"hx: got {type(hx).__name__}; expected a tensor, h")
            parts = hx if has_c else (hx,)
            for name, part in zip("hc", parts, strict=False):
                if part.dim() != input.dim() or part.shape[-1] != H:
                    layout = f"[B, {H}]" if batched else f"[{H}]"
                    raise ValueError(f"{name}: got shape {list(part.shape)}; expected {layout}")
            lifted = [part[None] if batched else part[None, None] for part in parts]
            h0, c0 = lifted[0], lifted[-1]
        weights = [self.weight_ih, self.weight_hh]
        if self.bias:
            weights += [self.bias_ih, self.bias_hh]
        _, h, c = call(
            self.spec, x, h0, c0, weights, H, H, self.engine, self.fuse, self.training, None
        )
        h, c = (h[0], c[0]) if batched else (h[0, 0], c[0, 0])
        return (h, c) if has_c else h

    def extra_repr(self) -> str:
        return (
            super().extra_repr()
            + f", engine={self.engine!r}"
            + (f", fuse={self.fuse!r}" if self.fuse is not None else "")
        )

    def __prepare_scriptable__(self) -> nn.RNNCellBase:
        """Return what torch.jit.script compiles in its place: torch's on the same parameters."""
        module: Any = copy(self)
        module.__class__ = self.torchs
        for name in ADDED:
            vars(module).pop(name, None)
        return module


class LSTMCell(RecurrentCell):
    """One step of one layer: write it where `torch.nn.LSTMCell` stood.

    Args:
        input_size, hidden_size, bias, device, dtype: as torch.nn.LSTMCell.
        engine, fuse: as fused_lstm.LSTM.
    """

    torchs = nn.LSTMCell

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
        spec = Spec("lstm", bias=bias)
        check_engine(engine, fuse, spec)
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)
        self.engine, self.fuse, self.spec = engine, fuse, spec


class GRUCell(RecurrentCell):
    """One step of one layer: write it where `torch.nn.GRUCell` stood.

    Args:
        input_size, hidden_size, bias, device, dtype: as torch.nn.GRUCell.
        engine, fuse: as fused_lstm.LSTM.
    """

    torchs = nn.GRUCell

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
        spec = Spec("gru", bias=bias)
        check_engine(engine, fuse, spec)
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)
        self.engine, self.fuse, self.spec = engine, fuse, spec


class RNNCell(RecurrentCell):
    """One step of one layer: write it where `torch.nn.RNNCell` stood.

    Args:
        input_size, hidden_size, bias, nonlinearity ("tanh" or "relu"), device, dtype: as
            torch.nn.RNNCell.
        engine, fuse: as fused_lstm.LSTM.
    """

    torchs = nn.RNNCell

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
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity: got {nonlinearity!r}; expected 'tanh' or 'relu'")
        spec = Spec(f"rnn_{nonlinearity}", bias=bias)
        check_engine(engine, fuse, spec)
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity
        self.engine, self.fuse, self.spec = engine, fuse, spec
