"""`Streaming`: an LSTM that is fed one step at a time, and keeps its own state.

What a call of the module does once a call, it does once: which engine runs, what is wrong with the
weights, their order, a cell's spread rows. A step is then the engine's operator and little else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import ops
from .cell import Cell
from .checks import check_kind, check_tensors
from .engines import engine_module, resolve
from .lstm import LSTM

State = tuple[Tensor, Tensor]


class Streaming:
    """One call, one step: an LSTM in inference, its state held between calls.

    It runs the module's weights and engine as they are when it is made; a change of weights in
    place is seen but for a `coupled` cell's. No gradient is taken, and nothing falls that falls in
    training only.

    Args:
        lstm: of one direction.
        batch_size: B, rows that step together.

    Raises:
        ValueError: `lstm` is no fused_lstm.LSTM, or has two directions: the second begins where a
            stream has not come to.
        RuntimeError: the engine cannot run on the weights' device; says why.

    Example:
        >>> stream = fused_lstm.Streaming(lstm)
        >>> for x in frames:  # [B, I] each
        ...     y = stream(x)  # [B, P]
    """

    def __init__(self, lstm: LSTM, batch_size: int = 1) -> None:
        if not isinstance(lstm, LSTM):
            got = f"{type(lstm).__name__} of {type(lstm).__module__}"
            raise ValueError(
                f"lstm: got {got}, should be a fused_lstm.LSTM; see fused_lstm.convert"
            )
        if lstm.bidirectional:
            raise ValueError("lstm: is bidirectional, should have one direction")
        weights = [weight.detach() for weight in lstm.weights()]
        like, B, H = weights[0], batch_size, lstm.hidden_size
        self._shape, self._like = (B, lstm.input_size), like
        self._zeros = (
            like.new_zeros(lstm.num_layers, B, lstm.proj_size or H),
            like.new_zeros(lstm.num_layers, B, H),
        )
        check_tensors(
            like.new_empty(1, *self._shape), *self._zeros, weights, 1, B, False, lstm.cell
        )
        engine, fuse = resolve(lstm.engine, lstm.fuse, like.device, lstm.cell.on)
        cell, weights = lstm.cell.four_gates(weights, H, lstm.num_layers)
        self._step = _step_of(engine, fuse, [w.contiguous() for w in weights], cell)
        self.reset()

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, I] -> y [B, P], h of the last layer; P is H unless h is projected.

        Raises:
            ValueError: x has another shape, dtype or device than the weights ask for.
        """
        if x.shape != self._shape or x.dtype != self._like.dtype or x.device != self._like.device:
            like = self._like
            raise ValueError(
                f"x: got shape {list(x.shape)}, {x.dtype} on {x.device}, should be"
                f" {list(self._shape)}, {like.dtype} on {like.device}"
            )
        y, *self._state = self._step(x.unsqueeze(0), *self._state)
        return y.squeeze(0)

    @property
    def state(self) -> State:
        """(h [L, B, P], c [L, B, H]) after the last step, as the module takes and returns it."""
        h, c = self._state
        return h, c

    def reset(self, rows: Tensor | None = None) -> None:
        """Begin anew from a state of zero: all rows, or those where `rows` [B] bool is true.

        Raises:
            ValueError: `rows` has another shape or dtype.
        """
        if rows is None:
            self._state = [torch.zeros_like(s) for s in self._zeros]  # a user may write to them
        else:
            check_kind("rows", rows, [self._shape[0]], torch.bool)
            begins = rows.to(self._like.device)[:, None]
            self._state = [torch.where(begins, 0.0, s) for s in self._state]


Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def _step_of(engine: str, fuse: str | None, weights: list[Tensor], cell: Cell) -> Step:
    """An engine's step in inference: (x [1, B, I], h, c) -> y [1, B, P], h, c."""
    if fuse in ("steps", "layers"):
        run = (ops.NATIVE if engine == "native" else ops.TRITON).lstm.default
        options, own = (weights, 0.0, None, fuse, False), cell.arguments()
        if engine == "native":
            own = own | {"precision": ops.precision_now(weights[0].dtype, "rnn")}

        def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch._C._AutoDispatchBelowAutograd():  # half of torch.no_grad's time
                return run(x, h, c, *options, **own)[:3]

        return step
    module, own = engine_module(engine), (cell, None) if cell.on else ()

    @torch.no_grad()
    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return module.lstm(x, h, c, weights, 0.0, fuse, 1, None, None, *own)

    return step
