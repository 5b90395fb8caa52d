"""The right answer of a `Case`: every cell in float64, step by step.

From fused_lstm it takes random numbers only (philox.dropout_mask, which has tests of its own).

A mask's element is numbered as docs/cells.md says. T, B, H, P: steps, rows, units, the size of h.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from case import Case
from torch import Tensor

from fused_lstm.philox import dropout_mask

STATES = {"lstm": "c", "gru": "", "rnn_tanh": "", "rnn_relu": "", "slstm": "c n m", "dreamer": ""}


class Masks:
    """The masks of a call; `order` [B] has each row's place by falling length."""

    def __init__(self, case: Case, seed: Tensor | None, lanes: int, order: Tensor) -> None:
        self.case, self.seed, self.lanes, self.order = case, seed, lanes, order

    def _drawn(self, kind: int, p: float, *shape: int) -> Tensor | None:
        if self.seed is None or p == 0:
            return None
        return dropout_mask(self.seed, shape, p, kind << 56).double()

    def of_steps(self, kind: int, p: float, T: int, size: int, lane: int) -> Tensor | None:
        """[T, B, size] of a lane."""
        mask = self._drawn(kind, p, self.lanes, T, len(self.order), size)
        return None if mask is None else mask[lane][:, self.order]

    def zone(self, kind: int, p: float, T: int, size: int, lane: int) -> list:
        """How much of its old value each unit keeps, [T] of [B, size] or a number."""
        mask = self.of_steps(kind, p, T, size, lane)
        return [p] * T if mask is None else list((mask == 0).double())

    def recurrent(self, lane: int) -> Tensor | float:
        mask = self._drawn(3, self.case.rdrop, len(self.order), self.lanes, self.case.P)
        return 1.0 if mask is None else mask[self.order, lane]


def block_product(h: Tensor, w: Tensor) -> Tensor:
    """R h [B, G*H]; w is [G*H, P], or of N heads [N, G*K, K]."""
    if w.dim() == 2:
        return h @ w.T
    N, GK, K = w.shape
    parts = [(h[:, n * K : (n + 1) * K] @ w[n].T).unflatten(1, (GK // K, K)) for n in range(N)]
    return torch.stack(parts, 2).flatten(1)


def gates_of(case: Case, w: dict[str, Tensor], x: Tensor, fed: Tensor) -> tuple[Tensor, Tensor]:
    by_x = x @ w["weight_ih"].T
    by_h = block_product(fed, w["weight_hh"]) if "weight_hh" in w else None
    if case.norm:
        by_x = F.layer_norm(by_x, by_x.shape[1:]) * w["gain_ih"]
        by_h = F.layer_norm(by_h, by_h.shape[1:]) * w["gain_hh"]
    if "bias" in w:
        by_x = by_x + w["bias"]
    if "bias_ih" in w:
        by_x = by_x + w["bias_ih"]
    if "bias_hh" in w:
        by_h = by_h + w["bias_hh"]
    return by_x, by_h


def lstm(case, w, by_x, by_h, h, s):
    (c,), a = s, by_x + by_h
    H = c.shape[1]
    peep = list(w["weight_ch"].split(H)) if case.peephole else [0.0] * 3
    if case.coupled:
        i, g, o = a.split(H, 1)
        i = torch.sigmoid(i + peep[0] * c)
        f = 1 - i
    else:
        i, f, g, o = a.split(H, 1)
        i, f = torch.sigmoid(i + peep[0] * c), torch.sigmoid(f + peep[1] * c)
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + peep[-1] * c)
    seen = F.layer_norm(c, (H,)) * w["gain_c"] + w.get("bias_c", 0.0) if case.norm else c
    return o * torch.tanh(seen), [c]


def gru(case, w, by_x, by_h, h, s):
    (r, z, n), (r_h, z_h, n_h) = by_x.chunk(3, 1), by_h.chunk(3, 1)
    r, z = torch.sigmoid(r + r_h), torch.sigmoid(z + z_h)
    return (1 - z) * torch.tanh(n + r * n_h) + z * h, []


def slstm(case, w, by_x, by_h, h, s):
    (c, n, m), (i, f, z, o) = s, (by_x + by_h).chunk(4, 1)
    log_f = (f if case.cell.endswith("exponential") else F.logsigmoid(f)) + m
    m = torch.where((n == 0) | (i >= log_f), i, log_f)
    i, f = torch.exp(i - m), torch.exp(log_f - m)
    c, n = f * c + i * torch.tanh(z), f * n + i
    return torch.sigmoid(o) * c / n, [c, n, m]


def dreamer(case, w, by_x, by_h, h, s):
    r, a, u = (by_x + by_h).chunk(3, 1)
    n, u = torch.tanh(torch.sigmoid(r) * a), torch.sigmoid(u - 1)
    return u * n + (1 - u) * h, []


def of_a_block(weights: dict[str, Tensor], H: int) -> dict[str, Tensor]:
    """DreamerV3's kernel [N, K + F, 3K], of each block's [h, x], and bias, as those of a lane."""
    kernel, (N, K) = weights["kernel"], (len(weights["kernel"]), H // len(weights["kernel"]))
    by_x = torch.cat([kernel[:, K:, k * K : (k + 1) * K].transpose(1, 2).flatten(0, 1)
                      for k in range(3)])  # fmt: skip
    return {
        "weight_ih_l0": by_x, "weight_hh_l0": kernel[:, :K].transpose(1, 2),
        "bias_l0": weights["bias"].view(N, 3, K).transpose(0, 1).flatten(),
    }  # fmt: skip


def widths_of(case: Case, cell: Any) -> dict[str, int]:
    """How many units states and inputs have, by name, where units= gives them others than H."""
    if not case.units:
        return {}
    units = cell.units(case.H, dict(case.units))
    return {
        name: width
        for values in ("states", "inputs")
        for name, width in zip(
            getattr(cell, values), cell.widths_of(values, case.H, units), strict=True
        )
    }


def product_of_a_user(weight, bias, count, rows, value):
    made = value.expand(rows, weight.shape[1]) @ weight.T + (0.0 if bias is None else bias)
    return made if count == 1 else tuple(made.chunk(count, 1))


def of_a_user(case, cell, w, by_x, by_h, h, s, inputs):
    """The user's own function, its arguments put together from the decorator's words."""
    _, _, apart, x_only, h_only, *_ = cell._told
    H, names, x_at, h_at, arguments = h.shape[1], cell.gates.names, 0, 0, []
    H = w["weight_ih"].shape[0] // sum(n not in h_only.split() for n in names
                                       if n not in cell.inputs)  # fmt: skip
    for name in names:
        if name in cell.inputs:
            continue
        of_x = of_h = None
        if name not in h_only.split():
            of_x, x_at = by_x[:, x_at : x_at + H], x_at + H
        if name not in x_only.split():
            of_h, h_at = by_h[:, h_at : h_at + H], h_at + H
        if name in apart.split():
            arguments.append((of_x, of_h))
        else:
            arguments.append(of_x if of_h is None else of_h if of_x is None else of_x + of_h)
    named = dict(zip(cell.states, s, strict=True)) | {n: w[n] for n in cell.weights}
    widths = widths_of(case, cell)
    named |= {n: value.expand(len(h), widths.get(n, case.H)) for n, value in inputs.items()}
    for name, count in cell.products.items():
        matrix, bias = w[f"weight_{name}"], w.get(f"bias_{name}")
        named[name] = partial(product_of_a_user, matrix, bias, count, len(h))
    results = cell.function(*arguments, **named, **cell.constants)
    results = results if isinstance(results, tuple) else (results,)
    after, others = [], iter(results[1:])
    for name in cell.states:
        after.append(results[0] if name == "h" else next(others))
    return results[0], after


def sweep(case, cell, w, x, h, s, masks, lane, lengths, resets, inputs):
    """A lane on x [T, B, I] -> y [T, B, P], the states of every step and the last ones, h first."""
    T, B = x.shape[:2]
    backwards, H = case.directions < 0 or lane % case.directions == 1, case.H
    alive = torch.arange(T)[:, None] < lengths  # [T, B]
    new = torch.zeros(T, B, dtype=torch.bool)  # whether a row begins anew at its step
    if resets is not None and backwards:
        new[:-1] = resets[1:] & alive[1:]
    elif resets is not None:
        new = resets
    z_h, z_c = case.zoneout if cell is None or cell.states != ("h",) else (case.zoneout[0], 0.0)
    zones_h, zones_c = masks.zone(1, z_h, T, case.P, lane), masks.zone(2, z_c, T, H, lane)
    fed_mask = masks.recurrent(lane)
    y, every = [None] * T, [None] * T
    for t in reversed(range(T)) if backwards else range(T):
        fresh = new[t, :, None]
        h_old, s_old = torch.where(fresh, 0.0, h), [torch.where(fresh, 0.0, one) for one in s]
        fed = h_old * fed_mask
        if case.clip is not None and fed.requires_grad:
            fed.register_hook(lambda g: g.clamp(-case.clip, case.clip))
        by_x, by_h = gates_of(case, w, x[t], fed)
        if cell is not None:
            told = [h_old if n == "h" else one for n, one in zip(cell.states, s_old, strict=True)]
            at = {name: value[t] for name, value in inputs.items()}
            h_new, s_new = of_a_user(case, cell, w, by_x, by_h, h_old, told, at)
        elif case.cell.startswith("rnn"):
            h_new, s_new = getattr(torch, case.cell[4:])(by_x + by_h), []
        else:
            h_new, s_new = globals()[case.kind](case, w, by_x, by_h, h_old, s_old)
        if case.proj:
            h_new = h_new @ w["weight_hr"].T
        h_new = zones_h[t] * h_old + (1 - zones_h[t]) * h_new
        if len(s_new) == 1 and (cell is None or cell.states != ("h",)):
            zone = zones_c[t]
            if isinstance(zone, Tensor):  # of a state that may have fewer units than h
                zone = zone[:, : s_old[0].shape[1]]
            s_new = [zone * s_old[0] + (1 - zone) * s_new[0]]
        if cell is not None and "h" in cell.states:
            s_new[cell.states.index("h")] = h_new
        on = alive[t, :, None]
        h = torch.where(on, h_new, h)
        s = [torch.where(on, a, b) for a, b in zip(s_new, s, strict=True)]
        y[t] = torch.where(on, h, 0.0)
        every[t] = [torch.where(on, one, 0.0) for one in (h, *s)]
    return torch.stack(y), [torch.stack(parts) for parts in zip(*every, strict=True)], [h, *s]


def run(
    case: Case, cell: Any, weights: dict[str, Tensor], x: Tensor, states: list[Tensor],
    lengths: Tensor, resets: Tensor | None, seed: Tensor | None, inputs: dict[str, Tensor],
    packed_rows: int | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
    """Return y [T, B, D * P], the last states [L * D, B, .], those of every step [L * D, T, B, .].

    Args:
        weights: by name, as of the module.
        states: h_0 [L * D, B, P], then those of the cell, [L * D, B, H] each.
        packed_rows: the rows of a packed batch, by which dropout between layers counts.
    """
    D, lanes = case.D, case.layers * case.D
    if case.cell == "dreamer":
        weights = of_a_block(weights, case.H)
    order = lengths.argsort(descending=True, stable=True).argsort()
    masks, last, every = Masks(case, seed, lanes, order), [], []
    for layer in range(case.layers):
        if layer > 0 and case.drop > 0 and seed is not None:
            x = x * between(case, seed, layer - 1, x.shape, lengths, order, packed_rows)
        outputs = []
        for lane in range(layer * D, (layer + 1) * D):
            end = f"_l{layer}" + "_reverse" * (lane % D)
            w = {n.removesuffix(end): v for n, v in weights.items() if n.endswith(end)}
            y, steps, final = sweep(
                case, cell, w, x, states[0][lane], [s[lane] for s in states[1:]], masks, lane,
                lengths, resets, inputs,
            )  # fmt: skip
            outputs.append(y)
            last.append(final)
            every.append(steps)
        x = torch.cat(outputs, -1)
    return x, *([torch.stack(of) for of in zip(*parts, strict=True)] for parts in (last, every))


def between(case, seed, layer, shape, lengths, order, packed_rows) -> Tensor:
    """The mask after a layer, [T, B, D * P]; of packed rows numbered as they are packed."""
    T, B, C = shape
    if packed_rows is None:
        return dropout_mask(seed, shape, case.drop, layer * T * B * C).double()
    flat = dropout_mask(seed, (packed_rows, C), case.drop, layer * packed_rows * C).double()
    sizes = (lengths > torch.arange(T)[:, None]).sum(1)
    first = sizes.cumsum(0) - sizes
    places = (first[:, None] + order).clamp(max=packed_rows - 1)  # [T, B]; ended rows are not read
    return flat[places]
