"""Long sequences in little memory: store the state of every k-th step, and compute the rest again.

A call of T steps becomes calls of k steps. Each stores the state it starts from and runs again in
the backward pass. So memory holds T / k states and what a backward needs of k steps (Chen et al.
2016, "Training deep nets with sublinear memory cost").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..call.choose import in_a_graph
from ..call.record import Call, Run
from ..call.spec import is_reversed
from ..operator.autograd import draw_seed
from ..operator.pullback import is_differentiated, is_transformed, version_of
from ..reference import stack


def in_chunks(run: Run, call: Call) -> tuple[Tensor, ...]:
    """Call `run`, an engine's function as in call.choose, `spec.recompute` steps at a time.

    Lanes that are reversed run on reversed rows, so that two directions run lane by lane. In a
    graph, under torch.func and in forward mode it is one call of all steps; without a backward too,
    unless masks are drawn: a chunk draws its own, and a call under no_grad has to draw what one
    with gradients draws.
    """
    spec, x = call.spec, call.x
    recorded = is_differentiated(*call.inputs)
    if in_a_graph() or is_transformed() or not (recorded or spec.draws):
        return run(call)
    in_time = spec.directions == 1 and not spec.reverse
    y, h_n, c_n = (_in_time if in_time else _lane_by_lane)(run, call)
    if len(y) < len(x):  # the rows after the live ones have ended: y is zero
        y = F.pad(y, (0, 0, 0, len(x) - len(y)))
    return y, h_n, c_n


def _lane_by_lane(run: Run, call: Call) -> tuple[Tensor, ...]:
    """Run a call lane by lane, those that are reversed on reversed rows."""
    spec, batch_sizes, not_reset = call.spec, call.batch_sizes, call.not_reset
    per_lane, last, D = len(spec.weight_names), [], spec.directions
    turn = _turn(batch_sizes, call.x.device)
    of_lane = replace(spec, layers=1, directions=1, dropout=0.0, reverse=False)

    def sweep(x: Tensor, lane: int) -> Tensor:
        backwards = is_reversed(spec, lane)
        kept = None if not_reset is None else not_reset[lane % D, None]
        if backwards:
            x, kept = turn(x, 0), None if kept is None else turn(kept, 1)
        own = Call(
            of_lane, x, call.h0[lane, None], call.c0[lane, None],
            call.weights[lane * per_lane : (lane + 1) * per_lane],
            seed=draw_seed(x.device) if of_lane.draws else None, batch_sizes=batch_sizes,
            not_reset=kept,
        )  # fmt: skip
        y, *state = _in_time(run, own)
        last.append(state)
        return turn(y, 0) if backwards else y

    p = spec.dropout
    y = stack.run(call.x, spec.layers, sweep, (lambda y, _: F.dropout(y, p)) if p > 0 else None, D)
    h_n, c_n = map(torch.cat, zip(*last, strict=True))
    return y, h_n, c_n


def _in_time(run: Run, call: Call) -> tuple[Tensor, ...]:
    """Run a call whose lanes all run forward in time, in chunks."""
    spec, x, h, c, seed, not_reset = (
        call.spec, call.x, call.h0, call.c0, call.seed, call.not_reset
    )  # fmt: skip
    assert spec.recompute is not None
    outputs, part = [], None
    for rows, alive, sizes in _chunks(x, h.shape[1], call.batch_sizes, spec.recompute):
        if seed is not None:
            part = draw_seed(x.device)
            if spec.options:  # with the call's seed, for masks that are the same at every step
                part = torch.cat([part, seed])
        chunk = Call(
            spec, x[rows], h[:, :alive], c[:, :alive], call.weights, seed=part, batch_sizes=sizes,
            not_reset=None if not_reset is None else not_reset[:, rows],
        )  # fmt: skip
        y, h_n, c_n = checkpoint(
            unchanged(run, x, h, c, call.weights), chunk,
            use_reentrant=False, preserve_rng_state=spec.dropout > 0,
        )[:3]  # fmt: skip
        outputs.append(y)
        h, c = (torch.cat([new, old[:, alive:]], 1) for new, old in ((h_n, h), (c_n, c)))
    return torch.cat(outputs), h, c


def unchanged(run: Run, x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor]) -> Run:
    """Return `run`, made to raise RuntimeError if one of these tensors was changed in place."""
    tensors = {"x": x, "h": h, "c": c} | {f"weights[{n}]": w for n, w in enumerate(weights)}
    before = {name: version_of(t) for name, t in tensors.items()}

    def checked(chunk: Call) -> tuple[Tensor, ...]:
        for name, tensor in tensors.items():
            if version_of(tensor) != before[name]:
                raise RuntimeError(
                    f"{name}: got version {version_of(tensor)}, changed in place after the forward"
                    f" pass; expected version {before[name]}, as recompute= runs that pass again"
                )
        return run(chunk)

    return checked


def _turn(batch_sizes: Tensor | None, device: torch.device) -> Callable[[Tensor, int], Tensor]:
    """Return a function (rows, their dimension) -> each row reversed in time."""
    if batch_sizes is None:
        return lambda rows, dim: rows.flip(dim)
    T, B = batch_sizes.shape[0], int(batch_sizes[0])
    numbers = partial(torch.arange, device=batch_sizes.device)
    lengths = (batch_sizes > numbers(B)[:, None]).sum(1)
    first, t = batch_sizes.cumsum(0) - batch_sizes, numbers(T).repeat_interleave(batch_sizes)
    b = numbers(len(t)) - first[t]
    places = (first[lengths[b] - 1 - t] + b).to(device)
    return lambda rows, dim: rows.index_select(dim, places)


def _chunks(
    x: Tensor, B: int, batch_sizes: Tensor | None, k: int
) -> Iterator[tuple[slice, int, Tensor | None]]:
    """Yield for each k steps their slice of x, the rows of the first, and their batch_sizes."""
    if batch_sizes is None:
        for begin in range(0, len(x), k):
            yield slice(begin, begin + k), B, None
        return
    begin = 0
    for sizes in batch_sizes[batch_sizes > 0].split(k):
        end = begin + int(sizes.sum())
        yield slice(begin, end), int(sizes[0]), sizes
        begin = end
