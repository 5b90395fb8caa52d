"""The LSTM's pointwise part of a step in plain PyTorch, forward and backward by hand.

It has nn.LSTM's cell with the options of call.spec: peepholes, a normalized c, and zoneout. Other
cells are functions in fused_lstm.cells. docs/backward.md derives the backward.

B, H: batch, hidden size. Gate order i, f, g, o.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-5  # nn.LayerNorm's


class OptionTensors(NamedTuple):
    """The tensors of an LSTM's options in a step; None where an option is off."""

    w_ch: Tensor | None = None  # [3H], peepholes of i, f and o
    gain_c: Tensor | None = None  # [H], where c is normalized on its way into h
    b_c: Tensor | None = None  # [H]

    def peep(self, dtype: torch.dtype) -> tuple[Tensor, ...] | None:
        """Return the peepholes of i, f and o, [H] each, or None."""
        return None if self.w_ch is None else self.w_ch.to(dtype).chunk(3)


PLAIN = OptionTensors()


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of cell states and accumulators: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# --- the cell ---


def cell(gates: Tensor, c: Tensor, added: OptionTensors = PLAIN) -> tuple[Tensor, Tensor]:
    """Compute an LSTM's cell: gates [B, 4H] before activation, c [B, H] -> h, c_next [B, H]."""
    h, c_next, _ = _cell(gates, c, added)
    return h, c_next


def forward(
    gates: Tensor, c: Tensor, added: OptionTensors = PLAIN
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute an LSTM's cell, and what its backward needs.

    Args:
        gates: [B, 4H], before activation.
        c: [B, H], in the state dtype.

    Returns:
        h [B, H] before a projection, c_next [B, H], and the activated gates [B, 4H].
    """
    h, c_next, activated = _cell(gates, c, added)
    return h, c_next, torch.cat(activated, dim=-1).to(gates.dtype)


def _cell(
    gates: Tensor, c: Tensor, added: OptionTensors
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return h, c_next and the activated gates i, f, g and o."""
    i, f, g, o = gates.to(c.dtype).chunk(4, dim=-1)
    if (peep := added.peep(c.dtype)) is not None:
        i, f = i + peep[0] * c, f + peep[1] * c
    i, f, g = i.sigmoid(), f.sigmoid(), g.tanh()
    c_next = f * c + i * g
    if peep is not None:
        o = o + peep[2] * c_next
    o = o.sigmoid()
    return (o * seen(c_next, added).tanh()).to(gates.dtype), c_next, (i, f, g, o)


def cell_backward(
    activated: Tensor, c: Tensor, c_next: Tensor, dh: Tensor, dc_next: Tensor
) -> tuple[Tensor, Tensor]:
    """Return dgates [B, 4H] and dc [B, H] of nn.LSTM's cell; arguments as `backward`'s."""
    return backward(activated, c, c_next, dh, dc_next)[:2]


def backward(
    activated: Tensor,
    c: Tensor,
    c_next: Tensor,
    dh: Tensor,
    dc_next: Tensor,
    added: OptionTensors = PLAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `forward`.

    Args:
        activated: [B, 4H], from `forward`.
        c, c_next: [B, H], the cell state before and after the step, in the state dtype.
        dh, dc_next: [B, H], gradients of the loss by this step's h and c_next.

    Returns:
        dgates [B, 4H] (by the gates *before* activation), dc [B, H], and dseen [B, H], the gradient
        by the result of `seen`.
    """
    i, f, g, o = activated.to(c.dtype).chunk(4, dim=-1)
    tanh_c = seen(c_next, added).tanh()
    do = dh * tanh_c * o * (1 - o)
    dseen = dh * o * (1 - tanh_c * tanh_c)
    dc_next = dc_next + seen_backward(dseen, c_next, added)  # c_next feeds the next step and this h
    if (peep := added.peep(c.dtype)) is not None:
        dc_next = dc_next + do * peep[2]
    di = dc_next * g * i * (1 - i)
    df = dc_next * c * f * (1 - f)
    dg = dc_next * i * (1 - g * g)
    dc = dc_next * f
    if peep is not None:
        dc = dc + di * peep[0] + df * peep[1]
    return torch.cat([di, df, dg, do], dim=-1).to(activated.dtype), dc, dseen


def proposed(activated: Tensor, c: Tensor) -> Tensor:
    """Compute c_next before zoneout again, from a step's activated gates and c [B, H]."""
    i, f, g, _ = activated.to(c.dtype).chunk(4, dim=-1)
    return f * c + i * g


def seen(c: Tensor, added: OptionTensors) -> Tensor:
    """Return the argument of tanh in h: c, normalized where the cell has layer norm."""
    return c if added.gain_c is None else scaled(normalized(c)[0], added.gain_c, added.b_c)


def seen_backward(dseen: Tensor, c: Tensor, added: OptionTensors) -> Tensor:
    """Return the gradient by c, given the gradient by `seen`."""
    if added.gain_c is None:
        return dseen
    return normalized_backward(dseen * added.gain_c, *normalized(c))


def four_gates(weight: Tensor) -> Tensor:
    """Expand a weight's rows i, g, o of coupled gates to i, -i, g, o: sigma(-a) = 1 - sigma(a)."""
    i, g, o = weight.chunk(3)
    return torch.cat([i, -i, g, o])


# --- masks ---


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Multiply x by a mask, or return x; the function is its own derivative."""
    return x if mask is None else x * mask.to(x.dtype)


def zoned(new: Tensor, old: Tensor, kept: Tensor | float | None) -> Tensor:
    """Apply zoneout: `old` where `kept` is 1, else `new`; the expectation where it is a number."""
    if kept is None:
        return new
    kept = kept.to(new.dtype) if isinstance(kept, Tensor) else kept
    return kept * old + (1 - kept) * new


def zoned_backward(d: Tensor, kept: Tensor | float | None) -> tuple[Tensor, Tensor | float]:
    """Return the gradients of `zoned` by `new` and by `old`."""
    if kept is None:
        return d, 0.0
    by_old = d * (kept.to(d.dtype) if isinstance(kept, Tensor) else kept)
    return d - by_old, by_old


# --- layer norm ---


def normalized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize rows [B, C] to mean 0 and variance 1; return 1 / standard deviation [B, 1] too.

    Both results are in the state dtype.
    """
    x = x.to(state_dtype(x.dtype))
    x = x - x.mean(-1, keepdim=True)
    rstd = (x.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return x * rstd, rstd


def scaled(x_hat: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    return x_hat * gain if bias is None else x_hat * gain + bias


def normalized_backward(dx_hat: Tensor, x_hat: Tensor, rstd: Tensor) -> Tensor:
    """Return the gradient by x [B, C], given the gradient by its normalized rows."""
    along = (dx_hat * x_hat).mean(-1, keepdim=True)
    return rstd * (dx_hat - dx_hat.mean(-1, keepdim=True) - x_hat * along)
