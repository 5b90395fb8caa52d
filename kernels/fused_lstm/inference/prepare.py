"""`prepare` and `quantize`: layers with weights packed once, for inference on a CPU.

A weight matrix is stored as the kernels of engine `native` read it. Calls of many rows of bfloat16
take it unpacked on most CPUs; that copy is made when it is first needed.
`torch.float32` and `torch.bfloat16` are the dtypes of a product's factors. Of `torch.int8` a matrix
has a scale for each row (output channel), and its factor, x or h, is rounded to bytes at every
step, with a scale for each row of the batch; these products are summed in int32, exactly. With
`weight_only` x and h stay float32. Other sums, the cell and its state are float32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ..call import door
from ..call.choose import in_a_graph, why_no_cell
from ..call.layout import TIME_FIRST, batch_of, check_resets, lay_out, states_of, zeros
from ..call.record import Call
from ..call.rows import enter, leave
from ..call.run import check_torchs
from ..cells import Cell
from ..errors import meant
from ..layers.custom import Recurrent, with_inputs
from ..layers.in_model import OURS, recurrent_layers, replace_modules, spec_of
from ..layers.modules import SLSTM, RecurrentBase
from ..loops import Fused
from ..operator import library
from ..operator.pullback import kernel

Model = TypeVar("Model", bound=nn.Module)
DTYPES = (torch.float32, torch.bfloat16, torch.int8)
# Of a packed matrix (native/isa/prepared.h): units of a block, bytes of a word, and, except in
# float32, words that a matrix unit reads at once.
UNITS, WORD, ABREAST, ZERO_POINT = 16, 4, 16, 128
# Instruction sets whose vectors hold a block's units. They read gates of float32 together, others
# one after another. Each reads what others packed. (One after another 32 calls take 0.93 to 1.30
# times as long on a Zen 4, in the median 1.03; of a few rows of 500 units and more 1.01 to 1.30.)
GATES_TOGETHER = ("amx", "avx512_bf16", "avx512")
# Instruction set -> rows of a call, T * B, from which on a layer's own kernels are faster in
# bfloat16 than prepared weights, although they pack theirs at each call; of wide layers, whose
# packing takes longer, a third of H. (With more rows they are, on an Emerald Rapids, 0.9 to 1.4
# times as fast; on a Zen 4 with two threads 1.0 to 1.6 times, with one 0.9 to 1.1, from H rows on
# 1.0 to 1.1. On a Zen 3, which widens bfloat16, 0.9 to 2.2 times, in most calls 1.2 or more. With
# fewer they are mostly slower.)
MANY_ROWS = {"amx": 128, "avx512_bf16": 48, "avx2": 48}
FEWEST_MANY_ROWS = min(MANY_ROWS.values())
DEEPEST = (2**31 - 1) // 127**2  # columns whose products of two bytes an int32 holds the sum of

HOOKS = {  # a module's attribute -> which hooks it has
    "_forward_pre_hooks": "forward pre-",
    "_forward_hooks": "forward",
    "_backward_pre_hooks": "backward pre-",
    "_backward_hooks": "backward",
    "_state_dict_pre_hooks": "state_dict pre-",
    "_state_dict_hooks": "state_dict",
    "_load_state_dict_pre_hooks": "load_state_dict pre-",
    "_load_state_dict_post_hooks": "load_state_dict post-",
}

NOT_TRAINED = (
    "a Prepared layer: got a call to be trained; expected inference, since its weights are packed:"
    " model.eval() or torch.no_grad(), or fused_lstm.convert(model, back=True) for torch.nn's layer"
)

log = logging.getLogger("fused_lstm")


def prepare(model: Model, dtype: torch.dtype | None = None, *, weight_only: bool = False) -> Model:
    """Replace every recurrent layer in a model, torch.nn's and ours, by a `Prepared` one, in place.

    Its weights are those of this moment: later changes of the replaced layer's are not seen. A
    state_dict has names, shapes and values of the replaced layer's, and loads into either, and
    `convert(model, back=True)` makes torch.nn's layers of it, with the weights as they are rounded.
    It cannot be trained: a call in training mode with gradients is an error, and so is a backward
    through one in evaluation. To keep the model as it is, prepare `copy.deepcopy(model)`. The
    logger "fused_lstm" says (WARNING) which layers were left and why: a cell with options, a cell
    of your own that has several states or more than four gates, a layer that is not on the CPU, or
    one with hooks. Hooks of torch.nn.utils.weight_norm and of torch.nn.utils.prune compute weights
    at each call, and no other hook would be called any more. A layer that `fuse` made is copied,
    and the weights of its kernel are made once.

    Args:
        model: any module; it may be a recurrent layer itself.
        dtype: of the weight matrices: torch.float32, torch.bfloat16 or torch.int8. None keeps the
            layer's, and makes float16 float32.
        weight_only: of torch.int8 alone: round the weights, and neither x nor h.

    Returns:
        `model`; where it is a recurrent layer itself, its `Prepared` layer.

    Raises:
        ValueError: another dtype, or weight_only with another than torch.int8.
        RuntimeError: engine `native` is missing; the message says why.
    """
    if dtype not in (None, *DTYPES):
        raise ValueError(
            f"dtype: got {dtype}; expected None or one of {', '.join(map(str, DTYPES))}"
        )
    if weight_only and dtype != torch.int8:
        raise ValueError(f"weight_only: got True with dtype {dtype}; expected torch.int8")
    if (why := library.load()) is not None:
        raise RuntimeError(f"prepare: needs the engine 'native': {why}")
    layers = recurrent_layers(model)
    made: dict[int, nn.Module] = {}  # a module that has several places keeps them
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, Fused)]:
        if (reason := _why_step_is_left(layer, dtype)) is not None:
            log.warning("left %s, a Fused: %s", name or "the model", reason)
        elif id(layer) not in made:
            made[id(layer)] = layer.with_weights_of_now()
    for name, reason in {name: _why_left(model, name) for name in layers}.items():
        module: Any = model.get_submodule(name)
        if reason is not None:
            log.warning("left %s, a %s: %s", name or "the model", type(module).__name__, reason)
            continue
        if id(module) not in made:
            made[id(module)] = Prepared(module, dtype, weight_only)
    replace_modules(model, made)
    return made.get(id(model), model)  # pyrefly: ignore[bad-return]


def quantize(model: Model, *, weight_only: bool = False) -> Model:
    """Replace every layer that `prepare` takes by one with weights of int8: its torch.int8.

    A state_dict has the weights as int8, and a float32 scale for each row, `<name>_scale`.

    Args:
        model: any module; it may be a recurrent layer itself.
        weight_only: round the weights alone. Otherwise x and h are rounded too, at every step.

    Returns:
        `model`; where it is a recurrent layer itself, its `Prepared` layer.

    Raises:
        RuntimeError: engine `native` is missing; the message says why.
    """
    return prepare(model, torch.int8, weight_only=weight_only)


def _why_left(model: nn.Module, name: str) -> str | None:
    """Return why a recurrent layer is not prepared, or None."""
    module: Any = model.get_submodule(name)
    kind, spec = type(module), module.spec if isinstance(module, RecurrentBase) else None
    if not isinstance(module, nn.LSTM | nn.GRU | nn.RNN | RecurrentBase) or kind is SLSTM:
        return "it is no layer of an LSTM, GRU, RNN or a cell of your own"
    if kind not in OURS and kind not in OURS.values() and kind is not Recurrent:
        return "it is a subclass, or parametrized"
    if spec is not None and spec.options not in ((), ("reverse",)):
        return "its cell has options that torch.nn's does not have"
    return (_why_not_told(module) if isinstance(module, Recurrent) else None) or _why_not(module)


def _why_step_is_left(layer: Fused, dtype: torch.dtype | None) -> str | None:
    """Return why the layer of a person's step is not prepared, or None."""
    if not isinstance(layer.step, nn.Module):
        return "its step is a function, whose weights cannot be copied"
    first = next((p for p in layer.parameters() if p.is_floating_point()), None)
    if dtype is not None and first is not None and first.dtype != dtype:
        return f"its weights are {first.dtype}; a step is prepared in that dtype alone"
    return None


def _why_not_told(module: Recurrent) -> str | None:
    """Return why weights of a cell of a user's own are not packed, or None."""
    cell, spec = module.cell, module.spec
    counts = len(cell.gates.by_x) - len(cell.inputs), len(cell.gates.by_h)
    if not all(1 <= count <= 4 for count in counts):
        return f"its cell has {counts[0]} gates of x and {counts[1]} of h, not one to four of each"
    if cell.rows != (None, None):
        return "its gates of one of x and h do not come last"
    if spec.units is not None:
        return "its values have other widths than hidden_size"
    if len(cell.states) > 1 or any(cell.initial_states.values()):
        return "its cell has several states, or one that begins at another value than 0"
    if module.spec.projection:
        return "it has proj_size, with a cell of your own"
    return why_no_cell("native", module.spec)


def _why_not(module: nn.RNNBase) -> str | None:
    """Return why a layer's weights cannot be packed, or None."""
    for attribute, kind in HOOKS.items():
        for hook in getattr(module, attribute, {}).values():
            name = getattr(hook, "__name__", None) or type(hook).__name__
            return (
                f"it has a {kind} hook, {name}, which a Prepared layer would not call; remove it"
                " first, as torch.nn.utils.remove_weight_norm and prune.remove do"
            )
    first = getattr(module, module._flat_weights_names[0])
    if first.device.type != "cpu" or first.dtype == torch.float64:
        return f"its weights are {first.dtype} on {first.device}"
    return None


# --- a matrix as the kernels read it ---


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight [rows, columns] as int8, in -127 to 127, and the scale [rows] of each row."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1) / 127
    steps = weight / torch.where(scale > 0, scale, 1.0)[:, None]
    return steps.round().to(torch.int8), scale


def words_of(depth: int, dtype: torch.dtype) -> int:
    """Return the words of a column of a packed matrix."""
    words = math.ceil(depth * dtype.itemsize / WORD)
    return words if dtype == torch.float32 else math.ceil(words / ABREAST) * ABREAST


def pack(weight: Tensor, gates: int, scale: Tensor | None = None, *, apart: bool = False) -> Tensor:
    """Return a matrix [gates * units, depth] packed: [blocks, words, gates, 16 units, word], flat.

    With `apart`, which float32 can have, gates lie one behind another: [blocks * gates,
    words * 16]. Of int8, with the scale [gates * units] of each row, the panels are followed by
    what each row adds for its factor's zero point (int32) and by the scales, [blocks, gates, 16]
    each.
    """
    (rows, depth), deep = weight.shape, WORD // weight.itemsize
    units = rows // gates
    more = -units % UNITS
    behind = words_of(depth, weight.dtype) * deep - depth
    padded = F.pad(weight.detach().view(gates, units, depth), (0, behind, 0, more))
    words = padded.view(gates, -1, UNITS, padded.shape[2] // deep, deep)
    if apart:
        return words.permute(1, 0, 3, 2, 4).flatten(2).flatten(0, 1)
    panels = words.permute(1, 3, 0, 2, 4).contiguous().flatten()
    if scale is None:
        return panels
    zeros = weight.sum(1, dtype=torch.int32) * ZERO_POINT
    blocks = [
        F.pad(t.view(gates, units), (0, more)).view(gates, -1, UNITS).transpose(0, 1).contiguous()
        for t in (zeros, scale)
    ]
    return torch.cat([panels, *(block.view(torch.int8).flatten() for block in blocks)])


def unpack(packed: Tensor, gates: int, units: int, depth: int) -> tuple[Tensor, Tensor | None]:
    """Return the matrix [gates * units, depth] that `pack` packed, and scales where it has any."""
    deep = WORD // packed.itemsize
    blocks, words = math.ceil(units / UNITS), words_of(depth, packed.dtype)
    size = blocks * words * gates * UNITS * deep
    if packed.dim() == 2:  # gates lie apart
        panels = packed.view(blocks, gates, words, UNITS, deep).permute(1, 0, 3, 2, 4)
    else:
        panels = packed[:size].view(blocks, words, gates, UNITS, deep).permute(2, 0, 3, 1, 4)
    weight = panels.reshape(gates, blocks * UNITS, words * deep)[:, :units, :depth]
    scale = None
    if packed.dtype == torch.int8:
        # Of a copy: what is read as float32 has to begin at a multiple of four bytes.
        scales = packed[-blocks * gates * UNITS * WORD :].clone().view(torch.float32)
        scale = scales.view(blocks, gates, UNITS).transpose(0, 1).reshape(gates, -1)[:, :units]
        scale = scale.reshape(-1)
    return weight.reshape(gates * units, depth), scale


def _differentiable(*given: Any) -> Tensor | None:
    """Return a tensor that requires a gradient, of arguments or tuples of them; None: none does."""
    for one in given:
        for tensor in one if isinstance(one, tuple | list) else (one,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                return tensor
    return None


class WithoutGradient(torch.autograd.Function):
    """apply(source, *results) -> the results, through which no gradient can come to `source`."""

    @staticmethod
    def forward(ctx, source, *results):
        return tuple(result.view_as(result) for result in results)

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(NOT_TRAINED)


class Prepared(nn.Module):
    """A recurrent layer with packed weights, for inference; arguments and layouts are the module's.

    Args:
        module: a layer that `prepare` takes; not changed.
        dtype, weight_only: see `prepare`.

    Raises:
        ValueError: `prepare` would leave the module; or a matrix of torch.int8 has more columns
            than an int32 holds the sum of.
    """

    cell: Cell | None = None  # of a layer of one's own

    def __init__(
        self, module: nn.RNNBase, dtype: torch.dtype | None = None, weight_only: bool = False
    ) -> None:
        if (why := _why_left(module, "")) is not None:
            raise ValueError(f"module: got {type(module).__name__}, which is left: {why}")
        super().__init__()
        self.training = False  # `train` says that a model is to be trained, which this cannot be
        if isinstance(module, Recurrent):
            self.cell = module.cell  # before spec: a pickle makes the cell known first
        self.spec, self.batch_first = spec_of(module), module.batch_first
        self.input_size, self.hidden_size = module.input_size, module.hidden_size
        self.proj_size, self.num_layers = module.proj_size, module.num_layers
        self.names = tuple(module._flat_weights_names)
        own = getattr(module, self.names[0]).dtype
        self.dtype = dtype or (torch.float32 if own == torch.float16 else own)
        self.weight_only = weight_only
        for name in self.names if self.dtype == torch.int8 and not weight_only else ():
            if self._is_matrix(name) and (depth := self._shape(name)[1]) > DEEPEST:
                raise ValueError(
                    f"{name}: got {depth:,} columns with torch.int8; expected at most {DEEPEST:,},"
                    " whose sum an int32 holds, or weight_only=True"
                )
        # Not buffers: `model.half()` or `model.to(...)` would change what only kernels can read.
        self.weights = [self._packed(name, getattr(module, name)) for name in self.names]
        # Weights, and the same ones unpacked; and as the operator takes them.
        self._unpacked: tuple[list[Tensor], list[Tensor]] | None = None
        self._arguments: tuple[list[Tensor], tuple[Tensor, ...]] | None = None

    def _packed(self, name: str, weight: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return a weight [rows, columns], or a bias [rows], as the operator takes it."""
        if weight.dim() == 1:
            return weight.detach().float().clone()
        if self.dtype == torch.int8 and scale is None:
            weight, scale = to_int8(weight)
        elif scale is None:
            weight = weight.detach().to(self.dtype)
        together = torch.ops.fused_lstm_native.isa() in GATES_TOGETHER
        apart = self.dtype == torch.float32 and not together
        packed = pack(weight, self._gates(name), scale, apart=apart)
        return torch.ops.fused_lstm_native.on_large_pages(packed)

    def _unpack(self) -> list[Tensor]:
        """Return the weights in bfloat16 as they were before they were packed."""
        if self._unpacked is None or self._unpacked[0] is not self.weights:
            plain = [
                weight.bfloat16() if not self._is_matrix(name)
                else unpack(weight, self._gates(name), *self._shape(name))[0].contiguous()
                for name, weight in zip(self.names, self.weights, strict=True)
            ]  # fmt: skip
            self._unpacked = self.weights, plain
        return self._unpacked[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_unpacked": None, "_arguments": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if (why := why_no_cell("native", self.spec)) is not None:
            raise RuntimeError(f"Prepared: engine 'native' cannot run its cell here: {why}")

    def _gates(self, name: str) -> int:
        """Return how many gates, or columns, a weight's rows are of."""
        of = name[: name.rindex("_l")]
        if self.cell is None:
            return 1 if of == "weight_hr" else self.spec.gates
        of_x, of_h = len(self.cell.gates.by_x) - len(self.cell.inputs), len(self.cell.gates.by_h)
        counts = {"ih": of_x, "hh": of_h, **self.cell.products}
        return 1 if of in self.cell.weights else counts[of.split("_", 1)[1]]

    def _is_matrix(self, name: str) -> bool:
        """Return whether a weight has rows and columns, and is packed."""
        own = self.cell is not None and name[: name.rindex("_l")] in self.cell.weights
        return not (own or name.startswith("bias"))

    def _shape(self, name: str) -> tuple[int, int]:
        """Return the units and the depth of a matrix."""
        of, _, lane = name.rpartition("_l")
        width, layer = self.proj_size or self.hidden_size, int(lane.split("_")[0])
        if of == "weight_hr":
            return width, self.hidden_size
        inputs = self.input_size if layer == 0 else self.spec.directions * width
        return self.hidden_size, inputs if of == "weight_ih" else width

    def arguments(self) -> tuple[Tensor, ...]:
        """Return the weights as the operator takes them: vectors of a cell of one's own joined."""
        if self._arguments is None or self._arguments[0] is not self.weights:
            cell, weights = self.cell, self.weights
            if cell is not None and (cell.vectors or cell.products):
                weights = self._joined_weights(cell)
            self._arguments = self.weights, tuple(weights)
        return self._arguments[1]

    def _joined_weights(self, cell: Cell) -> list[Tensor]:
        named, found = dict(zip(self.names, self.weights, strict=True)), []
        for lane in [name.removeprefix("weight_ih") for name in self.names if "weight_ih_" in name]:
            plain = [f"{of}_{part}{lane}" for of in ("weight", "bias") for part in ("ih", "hh")]
            found += [named[name] for name in plain if name in named]
            vectors = [named[name + lane] for name in cell.weights]
            for product, columns in cell.products.items():
                none = torch.zeros(columns * self.hidden_size)
                vectors.append(named.get(f"bias_{product}{lane}", none))
            found.append(torch.cat(vectors))
            found += [named[f"weight_{product}{lane}"] for product in cell.products]
        return found

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, weight in zip(self.names, self.weights, strict=True):
            if not self._is_matrix(name):
                destination[prefix + name] = weight
                continue
            matrix, scale = unpack(weight, self._gates(name), *self._shape(name))
            destination[prefix + name] = matrix
            if scale is not None:
                destination[f"{prefix}{name}_scale"] = scale

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, local_metadata: dict, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Pack what a state_dict has: of this layer's kind, or of the layer that it replaced."""
        made, known = list(self.weights), set()
        for index, name in enumerate(self.names):
            key, scale_key = prefix + name, f"{prefix}{name}_scale"
            known |= {key, scale_key}
            if key not in state_dict:
                missing_keys.append(key)
                continue
            weight, scale = state_dict[key], state_dict.get(scale_key)
            matrix = self._is_matrix(name)
            units, *depth = self._shape(name) if matrix else (self.hidden_size,)
            shape = (self._gates(name) * units, *depth)
            if tuple(weight.shape) != shape:
                error_msgs.append(f"{key}: got shape {tuple(weight.shape)}; expected {shape}")
            elif matrix and (weight.dtype == torch.int8) != (scale is not None):
                error_msgs.append(
                    f"{key}: got {weight.dtype}; expected int8 and {scale_key}, or floats"
                )
            elif scale is not None and (scale.shape, scale.dtype) != (shape[:1], torch.float32):
                error_msgs.append(
                    f"{scale_key}: got {scale.dtype} of shape {tuple(scale.shape)}; expected"
                    f" torch.float32 of shape {shape[:1]}"
                )
            elif scale is not None and self.dtype != torch.int8:
                made[index] = self._packed(name, weight.float() * scale[:, None])
            else:
                made[index] = self._packed(name, weight, scale)
        if strict:
            unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]
        if not error_msgs:
            self.weights = made

    def restored(self) -> nn.RNNBase:
        """Return torch.nn's layer with these weights, float32 where they are int8.

        Raises:
            ValueError: torch.nn does not have the cell.
        """
        spec, kinds = self.spec, {"lstm": nn.LSTM, "gru": nn.GRU}
        kind: Any = kinds.get(spec.cell, nn.RNN)
        check_torchs(spec, f"nn.{kind.__name__}")
        options: dict[str, Any] = {}
        if kind is nn.RNN:
            options["nonlinearity"] = spec.cell.removeprefix("rnn_")
        elif kind is nn.LSTM:
            options["proj_size"] = self.proj_size
        layer = kind(
            self.input_size, self.hidden_size, self.num_layers, bias=spec.bias,
            batch_first=self.batch_first, dropout=spec.dropout, bidirectional=self.bidirectional,
            dtype=torch.float32 if self.dtype == torch.int8 else self.dtype, **options,
        )  # fmt: skip
        saved = self.state_dict()
        for name in [name for name in self.names if f"{name}_scale" in saved]:
            saved[name] = saved[name].float() * saved.pop(f"{name}_scale")[:, None]
        layer.load_state_dict(saved)
        return layer.train(self.training)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        **inputs: Tensor,
    ) -> Any:
        """Return the same as the module's `forward`, without gradients.

        Args:
            inputs: what a cell of one's own has as `inputs`, as `Recurrent` takes them.

        Raises:
            ValueError: an argument does not fit; names it.
            RuntimeError: the module is in training mode and gradients are recorded.
        """
        source, records = None, torch.is_grad_enabled()
        if records:
            if self.training:
                raise RuntimeError(NOT_TRAINED)
            source = _differentiable(input, hx, *inputs.values())
        if source is None and lengths is None and resets is None and not inputs:
            results = self._at_the_door(input, hx)
            if results is not None:
                return results
        with torch.no_grad() if records else nullcontext():
            return self._forward(input, hx, lengths, resets, inputs, source)

    def _at_the_door(self, input: Any, hx: Any) -> Any:
        """Return `forward`'s results for a dense batch of rows, or None: it is to run the call."""
        if type(input) is not Tensor or not door.is_open():
            return None
        spec, H = self.spec, self.hidden_size
        lanes, P = spec.layers * spec.directions, self.proj_size or H
        layer = door.Layer(False, self.batch_first, spec.has_c, self.input_size, lanes, P, H)
        if self._takes_layers_kernels(input):
            return door.of(spec, door.FORWARD, False, layer)(input, hx, tuple(self._unpack()))
        enter = door.of(spec, door.PREPARED, self.weight_only, layer)
        return enter(input, hx, self.arguments())

    def _forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        inputs: dict[str, Tensor],
        source: Tensor | None,
    ) -> Any:
        """Return `forward`'s results; source: an argument by which a caller may want gradients."""
        width = self.input_size
        if inputs or (self.cell is not None and self.cell.inputs):
            input, width = with_inputs(self, self.cell, input, inputs, every_unit=True)
        x, rows, resets, layout = lay_out(input, lengths, resets, width, self.batch_first)
        B = x.shape[1] if rows is None else batch_of(input, self.batch_first)
        if hx is None:
            H = self.hidden_size
            h0, c0 = zeros(self.spec, x, B, H, self.proj_size or H)
        else:
            h0, c0 = states_of(self.spec, hx, layout.batched)
            if not torch.jit.is_tracing():  # which makes sizes tensors
                self._check_state(h0, c0, B)
        if rows is None and resets is None:
            y, h_n, c_n = self._kernel(x, h0, c0)
        else:
            if resets is not None:
                check_resets(resets, x)
            call = Call(self.spec, x, h0, c0, self.weights, rows=rows)
            enter(call, resets)
            y, h_n, c_n = self._kernel(call.x, call.h0, call.c0, call.batch_sizes, call.not_reset)
            if rows is not None:
                y, h_n, c_n = leave(rows, y, h_n, c_n)
        if source is not None:
            with torch.enable_grad():
                y, h_n, c_n = WithoutGradient.apply(source, y, h_n, c_n)
        if layout is not TIME_FIRST:
            y, h_n, c_n = layout.output(y), layout.last(h_n), layout.last(c_n)
        return y, (h_n, c_n) if self.spec.has_c else h_n

    def _kernel(
        self,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        batch_sizes: Tensor | None = None,
        not_reset: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the operator, and say what it refuses."""
        ops: Any = torch.ops.fused_lstm_native
        spec = self.spec
        try:
            if self._takes_layers_kernels(x):
                run = ops.lstm if in_a_graph() else partial(kernel, ops.lstm.default)
                outputs = run(
                    x, h0, c0, self._unpack(), 0.0, None, "layers", False, **spec.schema,
                    batch_sizes=batch_sizes, not_reset=not_reset,
                )  # fmt: skip
                return outputs[:3]
            return ops.prepared_lstm(
                x, h0, c0, self.arguments(), spec.schema_directions, batch_sizes, not_reset,
                spec.schema_cell, self.weight_only,
            )  # fmt: skip
        except RuntimeError as error:
            raise meant(error) from None

    def _takes_layers_kernels(self, x: Tensor) -> bool:
        """Return whether bfloat16 weights meet so many rows that a layer's kernels are faster."""
        if self.dtype != torch.bfloat16 or x.dtype != torch.bfloat16 or self.cell is not None:
            return False
        rows = x.numel() // self.input_size
        if rows < max(FEWEST_MANY_ROWS, self.hidden_size // 3):
            return False
        return rows >= MANY_ROWS.get(torch.ops.fused_lstm_native.isa(), math.inf)

    def _check_state(self, h0: Tensor, c0: Tensor, B: int) -> None:
        """Check that h_0 is [L * D, B, P] and c_0 [L * D, B, H].

        The kernels do not see it of packed weights, whose units are filled up to 16.
        """
        lanes, H, P = self.num_layers * self.spec.directions, self.hidden_size, self.proj_size
        for name, state, size in (("h_0", h0, P or H), ("c_0", c0, H)):
            if state.shape != (lanes, B, size):
                shape = [lanes, B, size]
                raise ValueError(f"{name}: got shape {list(state.shape)}; expected {shape}")

    # --- what torch.nn's module has, and a caller may ask for ---

    @property
    def bidirectional(self) -> bool:
        """True where each layer has two directions."""
        return self.spec.directions == 2

    @property
    def bias(self) -> bool:
        """True where the layers have biases."""
        return self.spec.bias

    @property
    def dropout(self) -> float:
        """Return the probability of dropping an element between two layers: 0 in inference."""
        return 0.0

    def flatten_parameters(self) -> None:
        """Do nothing: the weights lie as the kernels read them."""

    def extra_repr(self) -> str:
        more = f", proj_size={self.proj_size}" if self.proj_size else ""
        more += ", weight_only=True" if self.weight_only else ""
        return (
            f"{self.spec.cell}, {self.input_size}, {self.hidden_size}, {self.dtype},"
            f" num_layers={self.num_layers}, bidirectional={self.spec.directions == 2}{more}"
        )
