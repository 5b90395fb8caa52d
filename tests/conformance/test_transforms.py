"""Second derivatives, torch.func, torch.compile and torch.export of a smaller list of pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from axes import transformed
from calls import compare, give, leaves_of, make, ours, theirs
from case import Case
from torch import Tensor, nn
from torch.func import functional_call

from fused_lstm import native

WHY = native.missing(torch.device("cpu"))


class Call(nn.Module):
    """A case's call, as a module of x and the states."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.module, self.given = case, make(case), give(case)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        found = ours(self.case, self.module, self.given._replace(x=x, states=list(states)))
        return tuple(found.values())


def both(case: Case) -> tuple:
    """Return the library's and the oracle's function of x, states and weights, those, a `Call`."""
    call = Call(case)
    given, _ = leaves_of(case, call.given, call.module)
    names, count = [*dict(call.module.named_parameters())], 1 + len(given.states)

    def of_library(*tensors: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(1000 + case.seed)
        named = {f"module.{n}": p for n, p in zip(names, tensors[count:], strict=True)}
        return functional_call(call, named, tensors[:count])

    def of_oracle(*tensors: Tensor) -> tuple[Tensor, ...]:
        here = given._replace(x=tensors[0], states=list(tensors[1:count]))
        named = dict(zip(names, tensors[count:], strict=True))
        return tuple(theirs(case, named, here).values())

    return of_library, of_oracle, [given.x, *given.states, *call.module.parameters()], call


def weighed(tensors: Iterable[Tensor]) -> Tensor:
    """Return a sum in which each element and its square have a weight of their own."""
    return sum(
        ((t + 0.3 * t * t) * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).cos().view_as(t)).sum()
        for t in tensors
    )


def derived(function, tensors, second: bool) -> list[Tensor]:
    """Return a function's results, their gradients, and where asked the gradients of those."""
    outputs = function(*tensors)
    how = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(weighed(outputs), tensors, create_graph=second, **how)
    more = torch.autograd.grad(weighed(first), tensors, **how) if second else ()
    return [t.detach() for t in (*outputs, *first, *more)]


@pytest.mark.parametrize(
    ("how", "case"), transformed(), ids=[f"{n} {how}" for n, (how, _) in enumerate(transformed())]
)
def test_transforms(how, case):
    if WHY is not None and case.engine.startswith("native"):
        pytest.skip(f"native: {WHY}")
    library, oracle, tensors, call = both(case)
    plain = [t.detach() for t in tensors]
    if how == "second":
        found, wanted = derived(library, tensors, True), derived(oracle, tensors, True)
    elif how == "jvp":
        ways = tuple(t.cos() for t in plain)
        (a, b), (c, d) = (torch.func.jvp(f, tuple(plain), ways) for f in (library, oracle))
        found, wanted = [*a, *b], [*c, *d]
    elif how == "vmap":
        x, others = torch.stack([plain[0], plain[0].cos(), plain[0] * 2]), plain[1:]
        found = torch.vmap(lambda x: library(x, *others), randomness="same")(x)
        wanted = [torch.stack(t) for t in zip(*(oracle(one, *others) for one in x), strict=True)]
    elif how == "per sample":
        x, others = torch.stack([plain[0], plain[0].cos()]), plain[1:]

        def gradient(function, x):
            return torch.func.grad(lambda *w: weighed(function(x, *w)), tuple(range(len(others))))

        found = torch.vmap(lambda x: gradient(library, x)(*others), randomness="same")(x)
        each = [derived(oracle, [one.requires_grad_(), *tensors[1:]], False) for one in x.clone()]
        wanted = [torch.stack(t) for t in zip(*(e[-len(others) :] for e in each), strict=True)]
    elif how == "compiled":
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        count = 1 + len(call.given.states)

        def library(*tensors):
            torch.manual_seed(1000 + case.seed)
            return compiled(*tensors[:count])

        leaves = [*tensors[:count], *call.module.parameters()]
        found, wanted = derived(library, leaves, False), derived(oracle, tensors, False)
    else:
        case = replace(case, mode="eval")
        library, oracle, tensors, call = both(case)
        given = tuple(t.detach() for t in tensors[: 1 + len(call.given.states)])
        with torch.no_grad():
            found = torch.export.export(call, given).module()(*given)
            wanted = oracle(*tensors)
    assert len(found) == len(wanted)
    for n, (a, b) in enumerate(zip(found, wanted, strict=True)):
        compare(case, f"{how}, result {n}", a.detach(), b.detach())
