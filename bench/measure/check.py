"""No answer, no time: what a contender computes must be what the reference computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

# The largest error, as a part of the largest right value, of right answers whose roundings differ.
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-3,  # the sums of a weight's gradient have T * B terms
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}
LOSSES = {
    torch.float32: 1e-6,  # a unit of the sixth digit
    torch.bfloat16: 1e-2,  # three steps on products that are rounded to the third
}


class WrongAnswer(Exception):
    """A contender computed something else than the reference: it is not timed."""


def asked_of(modes: Collection[str], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the answer of who runs in `modes` must have: of who only infers no gradients."""
    only_infers = set(modes) == {"inference"}
    return {n: t for n, t in expected.items() if not (only_infers and n.endswith(".grad"))}


def require_right(
    name: str,
    answer: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    rounded: torch.dtype | None = None,
) -> float:
    """The largest relative error over all of `expected`; WrongAnswer where it is too large.

    `rounded` is what the products' factors were rounded to, where that is not the answer's dtype.
    """
    if missing := expected.keys() - answer.keys():
        raise WrongAnswer(f"{name}: gave no {', '.join(sorted(missing))}; not timed")
    worst = 0.0
    for key, value in expected.items():
        error = relative_error(answer[key], value)
        dtype = rounded or value.dtype
        allowed = LOSSES[dtype] if key == "losses" else TOLERANCE[dtype]
        if not error <= allowed:  # NaN is wrong too
            verb = "differ" if key == "losses" else "differs"
            raise WrongAnswer(
                f"{name}: {key} {verb} from the reference's by {error:.3g} of its largest value,"
                f" at most {allowed:g} is allowed; not timed"
            )
        worst = max(worst, error)
    return worst


def relative_error(answer: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value; infinite where shapes differ."""
    if answer.shape != expected.shape:
        return float("inf")
    difference = (answer.detach().double() - expected.detach().double()).abs().max()
    return float(difference / expected.detach().double().abs().max().clamp(min=1e-30))
