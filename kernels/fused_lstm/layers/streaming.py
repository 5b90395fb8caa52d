"""`Streaming`: a recurrent layer that takes one step a call and keeps its state.

The constructor chooses the engine and checks the weights, which a module does at every call. A step
is then little more than the engine's operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..call import door
from ..call.choose import choose, engine_module
from ..call.layout import State, as_step, check_is_tensor, check_kind, of_step, zeros
from ..call.record import Call
from ..call.run import check_tensors, precision_now
from ..call.spec import Spec
from ..inference.prepare import Prepared
from ..operator import ops, recurrence
from ..reference import by_layer, input_product
from .custom import Recurrent, with_inputs
from .modules import RecurrentBase


def check_in_time(spec: Spec) -> None:
    """Check that no lane starts at the end of a sequence, which a stream does not have."""
    for name, got in (("bidirectional", spec.directions == 2), ("reverse", spec.reverse)):
        if got:
            raise ValueError(f"module: got {name}=True; expected one direction, forward in time")


class Streaming:
    """An LSTM, GRU or RNN in inference: a call is one step, and the state stays between calls.

    It uses the engine and the weights that the module has at construction; a change of the weights
    in place takes effect. A weight that is not contiguous, such as a transposed one, is copied at
    every step. It computes no gradients, and dropout and other training options are off.

    Args:
        module: a fused_lstm.LSTM, GRU or RNN of one direction, or what fused_lstm.prepare made of
            one; its steps are float32, whatever its weights are.
        batch_size: B, the number of rows of a step.

    Raises:
        ValueError: `module` is none of these, or it has two directions: the second one starts at
            the end of a sequence.
        RuntimeError: the engine cannot run on the weights' device; the message says why.

    Example:
        >>> stream = fused_lstm.Streaming(module)
        >>> for x in frames:  # [B, I] each
        ...     y = stream(x)  # [B, P]; with an input dt of the cell: stream(x, dt=dt)
    """

    def __init__(self, module: RecurrentBase | Prepared, batch_size: int = 1) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 0:
            raise ValueError(f"batch_size: got {batch_size!r}; expected a number of rows")
        self._cells: Recurrent | None = None  # a module whose weights are put together at each step
        self._prepared: Any = None  # a Prepared layer of a cell of one's own
        if isinstance(module, Prepared):
            self._of_prepared(module, batch_size)
            return
        if not isinstance(module, RecurrentBase):
            got = f"{type(module).__name__} of {type(module).__module__}"
            raise ValueError(
                f"module: got {got}; expected a fused_lstm.LSTM, GRU or RNN; see fused_lstm.convert"
            )
        check_in_time(module.spec)
        inputs, weights = 0, module.weights()
        if isinstance(module, Recurrent) and module.cell.inputs:
            inputs, self._cells = len(module.cell.inputs), module
        self._weights = weights = [weight.detach() for weight in weights]
        parameters = {parameter.data_ptr() for parameter in module.parameters()}
        if isinstance(module, Recurrent) and any(w.data_ptr() not in parameters for w in weights):
            self._cells = module
        like, B, H = weights[0], batch_size, module.hidden_size
        self._shape, self._like, self._joined = (B, module.input_size), like, module._joined
        P = module.proj_size
        x = like.new_empty(1, B, module.input_size + inputs)
        self._first = module._initial(x, B)
        check_tensors(
            Call(module.spec, x, *self._first, weights, hidden_size=H, output_size=P or H)
        )
        engine, level, _ = choose(module.engine, module.fuse, like.device, module.spec)
        precision = precision_now(like.dtype, "rnn") if engine == "native" else None
        spec = replace(
            module.spec, dropout=0.0, training=False, level=level, precision=precision,
            recompute=None,
        )  # fmt: skip
        self._step = _step_of(engine, spec, weights)
        self.reset()

    def _of_prepared(self, module: Prepared, B: int) -> None:
        """Set up the steps of packed weights."""
        check_in_time(module.spec)
        self._prepared = None if module.cell is None else module
        spec, H, P = module.spec, module.hidden_size, module.proj_size
        self._like = torch.empty(0, dtype=torch.float32)
        self._shape = B, module.input_size
        self._first = zeros(spec, self._like, B, H, P or H)
        self._joined = lambda h, c: (h, c) if spec.has_c else h
        run = torch.ops.fused_lstm_native.prepared_lstm
        enter = door.of(spec, door.PREPARED, module.weight_only)

        def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
            weights = module.arguments()
            if door.is_open():
                results = enter(x, h, c, weights)
                if results is not None:
                    return results
            with torch.no_grad():
                return run(x, h, c, weights, 1, None, None, spec.schema_cell, module.weight_only)

        self._step = step
        self.reset()

    def __call__(self, x: Tensor, **inputs: Tensor) -> Tensor:
        """Run one step: x [B, I] -> y [B, P], h of the last layer; P is H unless h is projected.

        Args:
            inputs: what a cell has as `inputs`, by name, [B, 1] or [B, H].

        Raises:
            ValueError: the shape, dtype or device of x does not fit the weights, or an input's
                shape; or the cell has other inputs.
        """
        check_is_tensor("x", x)
        if x.shape != self._shape or x.dtype != self._like.dtype or x.device != self._like.device:
            like = self._like
            raise ValueError(
                f"x: got shape {list(x.shape)}, {x.dtype} on {x.device}; expected"
                f" {list(self._shape)}, {like.dtype} on {like.device}"
            )
        if self._cells is not None:
            x = self._join(self._cells, x, inputs)
        elif self._prepared is not None and self._prepared.cell.inputs:
            x, _ = with_inputs(self._prepared, self._prepared.cell, x, inputs, every_unit=True)
        elif inputs:
            raise ValueError(f"inputs: got {', '.join(inputs)}; expected none")
        y, *self._states = self._step(as_step(x), *self._states)
        return of_step(y)

    @torch.no_grad()
    def _join(self, module: Recurrent, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Put a cell's weights together as they are now; return x with the cell's inputs behind."""
        self._weights[:] = module.weights()
        if not module.cell.inputs and not inputs:
            return x
        return with_inputs(module, module.cell, x, inputs)[0]

    @property
    def state(self) -> State | Tensor:
        """The state after the last step, as the module takes and returns it.

        (h [L, B, P], c [L, B, H]), h alone where the module has no c, (h, c, n, m) of an sLSTM.
        """
        return self._joined(*self._states)

    def reset(self, rows: Tensor | None = None) -> None:
        """Set the state to what a sequence begins with, zero.

        That is done for all rows, or for those where `rows` [B] bool is true.

        Raises:
            ValueError: `rows` has another shape or dtype.
        """
        if rows is None:
            self._states = [s.clone() for s in self._first]  # a user may write to them
        else:
            check_kind("rows", rows, [self._shape[0]], torch.bool)
            begins = rows.to(self._like.device)[:, None]
            both = zip(self._first, self._states, strict=True)
            self._states = [torch.where(begins, first, s) for first, s in both]


Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]  # (x, h, c) -> y, h, c


def _step_of(engine: str, spec: Spec, weights: list[Tensor]) -> Step:
    """Return an engine's step in inference: (x [1, B, I], h, c) -> y [1, B, P], h, c."""
    if spec.level in ("steps", "layers") and not spec.in_heads:
        run = (ops.NATIVE if engine == "native" else ops.TRITON).lstm.default
        arguments, named = (weights, 0.0, None, spec.level, False), spec.schema
        enter = door.of(spec, door.FORWARD, False)

        def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
            if engine == "native" and door.is_open():
                results = enter(x, h, c, tuple(weights))
                if results is not None:
                    return results
            with torch._C._AutoDispatchBelowAutograd():  # half of torch.no_grad's time
                return run(x, h, c, *arguments, **named)[:3]

        return step
    if spec.in_heads and engine in ("native", "triton"):
        return _step_in_heads(engine, spec, weights)
    module = engine_module(engine)

    @torch.no_grad()
    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return module.run(Call(spec, x, h, c, weights))[:3]

    return step


def _step_in_heads(engine: str, spec: Spec, weights: list[Tensor]) -> Step:
    """Return the step of layers with heads, or of sLSTMs: an operator for each layer."""
    run = (ops.NATIVE if engine == "native" else ops.TRITON).recurrence.default
    cell, layers = recurrence.cell_of(spec), by_layer(weights, spec.layers, spec)

    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        h_n, c_n = [], []
        with torch._C._AutoDispatchBelowAutograd():
            for n, layer in enumerate(layers):
                bias, bias_m = recurrence.biases(layer, spec)
                w_hh = layer.w_hh if layer.w_hh.dim() == 3 else layer.w_hh[None]
                gates = input_product(x, layer, spec, bias)
                x, h_last, c_last, *_ = run(
                    gates, h[n], c[n], w_hh, bias_m, cell.name, False, precision=cell.precision
                )
                h_n.append(h_last)
                c_n.append(c_last if spec.has_c else h_last)
        return x, torch.stack(h_n), torch.stack(c_n)

    return step
