"""A layer that fuse made beside the loop that a person runs: all results, all gradients by name."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils import _pytree as pytree

import fused_lstm
from bench.written import Written
from tolerance import TOLERANCE, near


def call_of(cell: Written, T: int, B: int, I: int, H: int, dtype: torch.dtype = torch.float64):
    """Return a module, x of all steps and a state."""
    torch.manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    module = cell.make(I, H).to(dtype)
    return module, cell.x(T, B, I, H, numbers), cell.state(B, H, numbers)


def results_of(layer, x, state, **more):
    """Return all results of a call and all gradients, in float64: name -> tensor."""
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in pytree.tree_leaves(x)]
    before = [t.detach().requires_grad_(t.is_floating_point()) for t in pytree.tree_leaves(state)]
    out = layer(
        pytree.tree_unflatten(leaves, pytree.tree_structure(x)),
        pytree.tree_unflatten(before, pytree.tree_structure(state)), **more,
    )  # fmt: skip
    values = {f"result {k}": t for k, t in enumerate(pytree.tree_leaves(out))}
    ends = [t for t in values.values() if t.requires_grad]
    rng = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(t.shape, generator=rng, dtype=torch.float64).to(t) for t in ends]
    by = {f"x {k}": t for k, t in enumerate(leaves)}
    by |= {f"state {k}": t for k, t in enumerate(before)}
    by |= dict(layer.step.named_parameters()) if isinstance(layer.step, nn.Module) else {}
    by = {name: t for name, t in by.items() if t.requires_grad}
    gradients = torch.autograd.grad(ends, list(by.values()), cotangents, allow_unused=True)
    values |= {
        f"gradient of {name}": torch.zeros_like(t) if g is None else g
        for (name, t), g in zip(by.items(), gradients, strict=True)
    }
    return {name: t.detach().double() for name, t in values.items()}


def assert_same(layer, x, state, dtype=torch.float64, **more):
    """Compare a layer with the person's own loop: results, and all gradients by name."""
    own = fused_lstm.fuse(layer.step, fuse="none", batch_first=layer.batch_first,
                          reverse=layer.reverse, returns=layer._step.returns)  # fmt: skip
    expected = results_of(own, x, state, **more)
    for name, value in results_of(layer, x, state, **more).items():
        torch.testing.assert_close(
            value, expected[name], **near(TOLERANCE[dtype]), msg=lambda text, n=name: f"{n}: {text}"
        )


def unrolled(step, x, h):
    """Yield the states of a step whose result is its state."""
    for x_t in x:
        h = step(x_t, h)
        yield h
