"""The LSTM in plain PyTorch, forward and backward by hand: the text to read first, and the oracle.

Every kernel of this project computes what stands here; docs/backward.md derives the backward.
Nothing here is in place, so autograd can differentiate all of it, the backward included.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. D: directions, 1 or 2. P: the
size of h, which is H unless h is projected. A lane is one layer in one direction. Gate order i, f,
g, o.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import stack
from .rows import Order, Rows


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of cell states and accumulators: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Layer(NamedTuple):
    """One lane's weights, as nn.LSTM names them."""

    w_ih: Tensor  # [4H, I], or [4H, D * P] above the first layer
    w_hh: Tensor  # [4H, P]
    b_ih: Tensor | None = None  # [4H]
    b_hh: Tensor | None = None  # [4H]
    w_hr: Tensor | None = None  # [P, H], where h is projected

    def bias(self) -> Tensor | None:
        """Both biases as one [4H]: they only ever appear as a sum."""
        return None if self.b_ih is None else self.b_ih + self.b_hh


def by_layer(weights: Sequence[Tensor], lanes: int) -> Iterator[Layer]:
    """Split nn.LSTM's flat weights: a lane has two, two more with biases, one more projected."""
    per_lane = len(weights) // lanes
    for start in range(0, len(weights), per_lane):
        own = list(weights[start : start + per_lane])
        w_hr = own.pop() if per_lane % 2 else None
        yield Layer(*own, *[None] * (4 - len(own)), w_hr)


# --- one cell's pointwise work ---


def activate(gates: Tensor) -> Tensor:
    """gates [B, 4H] before activation -> sigmoid(i), sigmoid(f), tanh(g), sigmoid(o), [B, 4H]."""
    i, f, g, o = gates.chunk(4, dim=-1)
    return torch.cat([i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()], dim=-1)


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """gates [B, 4H] before activation, c [B, H] in the state dtype -> h, c_next [B, H]."""
    i, f, g, o = activate(gates.to(c.dtype)).chunk(4, dim=-1)
    c_next = f * c + i * g
    return (o * c_next.tanh()).to(gates.dtype), c_next


def cell_backward(
    activated: Tensor, c: Tensor, c_next: Tensor, dh: Tensor, dc_next: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of one cell.

    Args:
        activated: [B, 4H], what `activate` gave in the forward.
        c, c_next: [B, H], the cell state before and after the step, in the state dtype.
        dh, dc_next: [B, H], gradients of the loss by this step's h and c_next.

    Returns:
        dgates [B, 4H] (by the gates *before* activation) and dc [B, H].
    """
    i, f, g, o = activated.to(c.dtype).chunk(4, dim=-1)
    tanh_c = c_next.tanh()
    do = dh * tanh_c
    dc_next = dc_next + dh * o * (1 - tanh_c * tanh_c)  # c_next feeds the next step and this h
    di, df, dg = dc_next * g, dc_next * c, dc_next * i
    dgates = torch.cat(
        [di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)], dim=-1
    )
    return dgates.to(activated.dtype), dc_next * f


# --- one lane ---


def step(x: Tensor, h: Tensor, c: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, I], h [B, P], c [B, H] -> h_next, c_next, activated gates [B, 4H]."""
    gates = x @ layer.w_ih.T + h @ layer.w_hh.T
    if layer.b_ih is not None:
        gates = gates + layer.bias()
    h_next, c_next = cell(gates, c)
    if layer.w_hr is not None:
        h_next = h_next @ layer.w_hr.T
    return h_next, c_next, activate(gates)


def layer_forward(
    x: Tensor, h0: Tensor, c0: Tensor, layer: Layer, order: Order | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A lane: x [T, B, I], h0 [B, P], c0 [B, H] -> h [T, B, P], c [T, B, H], gates [T, B, 4H].

    h and c are the state after each step, which of a row that has ended is its last; the gates are
    activated. order: the lane's steps; None is forwards, all rows alive.
    """
    order = order or Order(range(len(x)))
    h, c, saved = h0, c0.to(state_dtype(x.dtype)), [None] * len(x)
    for t in order.steps:
        h_next, c_next, activated = step(x[t], *order.before(t, h, c), layer)
        h, c = order.after(t, h_next, h), order.after(t, c_next, c)
        saved[t] = h, c, activated
    hs, cs, gates = (torch.stack(of) for of in zip(*saved, strict=True))
    return hs, cs, gates


def layer_backward(
    dy: Tensor,
    dh_n: Tensor,
    dc_n: Tensor,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    layer: Layer,
    h: Tensor,
    c: Tensor,
    gates: Tensor,
    order: Order | None = None,
) -> tuple[Tensor, Tensor, Tensor, Layer]:
    """Gradients of one lane.

    The loop over time does only what must be done in order; the gradients of the weights need
    every step's dgates and no order, so they are one large product each after the loop.

    Args:
        dy: [T, B, P], what is sent to a row that has ended is not looked at; dh_n [B, P], dc_n
            [B, H], gradients by the last state.
        x, h0, c0, layer, order: the forward's arguments; h, c, gates: its results.

    Returns:
        dx [T, B, I], dh0 [B, P], dc0 [B, H] and the gradients of the weights.
    """
    order = order or Order(range(len(x)))
    h_prev, c_prev, last = [None] * len(x), [None] * len(x), (h0, c0.to(c.dtype))
    for t in order.steps:
        (h_prev[t], c_prev[t]), last = order.before(t, *last), (h[t], c[t])
    dh, dc, dgates, dhs = dh_n, dc_n.to(c.dtype), [None] * len(x), [None] * len(x)
    for t in reversed(order.steps):
        dhs[t] = order.output(t, dy[t] + dh)
        dm = dhs[t] if layer.w_hr is None else dhs[t] @ layer.w_hr  # by o * tanh(c)
        by_gates, dc_next = cell_backward(gates[t], c_prev[t], c[t], dm, dc)
        dgates[t] = order.output(t, by_gates)
        before = order.before(t, dgates[t] @ layer.w_hh, dc_next)
        dh, dc = order.after(t, before[0], dh), order.after(t, before[1], dc)
    dgates = torch.stack(dgates)
    columns = dgates.flatten(0, 1).T  # [4H, T * B]
    dbias = None if layer.b_ih is None else columns.sum(1)
    dw_hr = None
    if layer.w_hr is not None:
        o = gates.chunk(4, dim=-1)[3]
        m = (o * c.tanh()).to(x.dtype)
        dw_hr = torch.stack(dhs).flatten(0, 1).T @ m.flatten(0, 1)
    dweights = Layer(
        columns @ x.flatten(0, 1), columns @ torch.stack(h_prev).flatten(0, 1), dbias, dbias, dw_hr
    )
    return dgates @ layer.w_ih, dh, dc.to(c0.dtype), dweights


# --- a stack of lanes ---


def lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    seed: Tensor | None = None,
    directions: int = 1,
    batch_sizes: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A stack of layers, for autograd to differentiate.

    Args:
        x: [T, B, I], or packed [N, I] with batch_sizes.
        h0: [L * D, B, P]; c0: [L * D, B, H]; weights: nn.LSTM's flat weights.
        dropout: probability of dropping an element of h between two layers.
        seed: [1] int64, draws the dropout mask; needed where dropout > 0.
        directions: D.
        batch_sizes, keep: as in fused_lstm.rows.

    Returns:
        y [T, B, D * P] or [N, D * P], h_n [L * D, B, P], c_n [L * D, B, H].
    """
    lanes, states = list(by_layer(weights, len(h0))), []
    rows = Rows(x, h0.shape[1], batch_sizes, keep)

    def sweep(x: Tensor, lane: int) -> Tensor:
        order = rows.order(lane % directions)
        h, c, _ = layer_forward(rows.pad(x), h0[lane], c0[lane], lanes[lane], order)
        last = order.steps[-1]
        states.append((h[last], c[last].to(c0.dtype)))
        return rows.pack(h)

    def drop(y: Tensor, layer: int) -> Tensor:
        return y * dropout_mask(seed, y.shape, dropout, layer * y.numel()).to(y.dtype)

    layers = len(h0) // directions
    y = stack.run(x, layers, sweep, drop if dropout > 0 else None, directions)
    h_n, c_n = map(torch.stack, zip(*states, strict=True))
    return y, h_n, c_n


# --- dropout between layers ---


def dropout_mask(seed: Tensor, shape: Sequence[int], dropout: float, first: int = 0) -> Tensor:
    """What h is multiplied by: 0 where dropped, else 1 / (1 - dropout); float32 of `shape`.

    Its elements are number `first`, `first` + 1, ...: between layers l and l + 1 of a stack the
    first is l times a layer's elements. Element n's fate is the first word of Philox4x32-10
    (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with the seed as key and n
    as counter, so that a kernel can draw any element at any time, and its backward draws the same
    again.
    """
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.int64, device=seed.device) + first
    word = _philox_first_word(seed, n).reshape(shape)
    # As triton's uint_to_uniform_float: the sign bit folded away, then scaled to [0, 1).
    signed = torch.where(word >= 2**31, 2**32 - 1 - word, word)
    uniform = signed.to(torch.float32) * 4.6566127342e-10
    scale = 1 / (1 - dropout) if dropout < 1 else 0.0
    return torch.where(uniform >= dropout, scale, 0.0).to(torch.float32)


def _philox_first_word(seed: Tensor, n: Tensor) -> Tensor:
    """Philox4x32-10 on 32-bit words held in int64; counter (n low, n high, 0, 0), key seed."""
    word = 0xFFFFFFFF
    k0, k1 = seed & word, (seed >> 32) & word
    c0, c1, c2, c3 = n & word, (n >> 32) & word, torch.zeros_like(n), torch.zeros_like(n)
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    return c0


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """The high and low 32-bit words of a 32 x 32 bit product, without overflowing int64."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high << 16) | (low & 0xFFFF)) & 0xFFFFFFFF
