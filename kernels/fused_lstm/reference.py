"""The LSTM in plain PyTorch, forward and backward by hand: the text to read first, and the oracle.

Every kernel of this project computes what stands here; docs/backward.md derives the backward.
Nothing here is in place, so autograd can differentiate all of it, the backward included.

T, B, I, H, L: time steps, batch, input size, hidden size, layers. Gate order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import stack


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of cell states and accumulators: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Layer(NamedTuple):
    """One layer's weights, as nn.LSTM names them."""

    w_ih: Tensor  # [4H, I], or [4H, H] above the first layer
    w_hh: Tensor  # [4H, H]
    b_ih: Tensor | None  # [4H]
    b_hh: Tensor | None  # [4H]

    def bias(self) -> Tensor | None:
        """Both biases as one [4H]: they only ever appear as a sum."""
        return None if self.b_ih is None else self.b_ih + self.b_hh


def by_layer(weights: Sequence[Tensor], num_layers: int) -> Iterator[Layer]:
    """Split nn.LSTM's flat weights: two tensors a layer, or four with biases."""
    per_layer = len(weights) // num_layers
    for start in range(0, len(weights), per_layer):
        yield Layer(*weights[start : start + per_layer], *[None] * (4 - per_layer))


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


# --- one step, one layer, one stack of layers ---


def step(x: Tensor, h: Tensor, c: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, I], h, c [B, H] -> h_next, c_next [B, H], activated gates [B, 4H]."""
    gates = x @ layer.w_ih.T + h @ layer.w_hh.T
    if layer.b_ih is not None:
        gates = gates + layer.bias()
    h_next, c_next = cell(gates, c)
    return h_next, c_next, activate(gates)


def layer_forward(x: Tensor, h0: Tensor, c0: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, B, I], h0, c0 [B, H] -> y [T, B, H], c [T, B, H], activated gates [T, B, 4H]."""
    h, c, steps = h0, c0.to(state_dtype(x.dtype)), []
    for x_t in x:
        h, c, activated = step(x_t, h, c, layer)
        steps.append((h, c, activated))
    y, cs, gates = (torch.stack(saved) for saved in zip(*steps, strict=True))
    return y, cs, gates


def layer_backward(
    dy: Tensor,
    dh_n: Tensor,
    dc_n: Tensor,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    layer: Layer,
    y: Tensor,
    c: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Layer]:
    """Gradients of one layer.

    The loop over time does only what must be done in order; the gradients of the weights need
    every step's dgates and no order, so they are one large product each after the loop.

    Args:
        dy: [T, B, H]; dh_n, dc_n: [B, H], gradients by the outputs and by the last state.
        x, h0, c0, layer: the forward's arguments; y, c, gates: its results.

    Returns:
        dx [T, B, I], dh0, dc0 [B, H] and the gradients of the weights.
    """
    dh, dc, dgates = dh_n, dc_n.to(c.dtype), [None] * len(x)
    for t in reversed(range(len(x))):
        c_prev = c[t - 1] if t > 0 else c0.to(c.dtype)
        dgates[t], dc = cell_backward(gates[t], c_prev, c[t], dy[t] + dh, dc)
        dh = dgates[t] @ layer.w_hh
    dgates = torch.stack(dgates)
    h_prev = torch.cat([h0[None], y[:-1]])
    rows = dgates.flatten(0, 1)  # [T * B, 4H]
    dbias = None if layer.b_ih is None else rows.sum(0)
    dweights = Layer(rows.T @ x.flatten(0, 1), rows.T @ h_prev.flatten(0, 1), dbias, dbias)
    return dgates @ layer.w_ih, dh, dc.to(c0.dtype), dweights


def lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weights: Sequence[Tensor],
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A stack of layers, for autograd to differentiate.

    Args:
        x: [T, B, I]; h0, c0: [L, B, H]; weights: nn.LSTM's flat weights.
        dropout: probability of dropping an element of h between two layers.
        seed: [1] int64, draws the dropout mask; needed where dropout > 0.

    Returns:
        y [T, B, H], h_n [L, B, H], c_n [L, B, H].
    """
    layers, states = list(by_layer(weights, len(h0))), []

    def sweep(x: Tensor, lane: int) -> Tensor:
        y, c, _ = layer_forward(x, h0[lane], c0[lane], layers[lane])
        states.append((y[-1], c[-1].to(c0.dtype)))
        return y

    def drop(y: Tensor, layer: int) -> Tensor:
        return y * dropout_mask(seed, y.shape, dropout, layer * y.numel()).to(y.dtype)

    y = stack.run(x, len(layers), sweep, drop if dropout > 0 else None)
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
