"""Cells drawn at random: one to eight gates, no state to three, any operations that a cell may use.

EXAMPLES in the environment is how many are drawn; SEED is the first one's.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
import torch.nn.functional as F

import fused_lstm
from fused_lstm import native
from fused_lstm.spec import CELLS
from test_custom import assert_same, loop, results

CPU = torch.device("cpu")
needs_native = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
EXAMPLES, SEED = int(os.environ.get("EXAMPLES", "8")), int(os.environ.get("SEED", "0"))
# Lines that may be drawn, of earlier values a, b, c, none of which grows without bound.
LINES = (
    "torch.tanh({a})", "torch.sigmoid({a})", "F.softplus({a})", "F.logsigmoid({a})", "F.relu({a})",
    "F.elu({a})", "F.elu({a}, 0.5)", "F.celu({a}, 0.7)", "F.selu({a}).clamp(max=3)", "F.silu({a})",
    "F.leaky_relu({a}, 0.1)", "F.hardtanh({a})", "F.hardsigmoid({a})", "F.softsign({a})",
    "F.relu6({a})", "F.mish({a})", "torch.exp(-torch.abs({a}))", "torch.log1p(torch.abs({a}))",
    "torch.sqrt(1 + {a} ** 2)", "torch.log(1 + {a} * {a})", "torch.expm1(-torch.abs({a}))",
    "torch.rsqrt(1 + torch.square({a}))", "torch.abs({a})", "-{a}", "0.5 * {a} + {b}", "{a} - {b}",
    "torch.tanh({a}) * {b}", "{a} / (1 + torch.abs({b}))", "torch.maximum({a}, {b})",
    "torch.minimum({a}, {b})", "torch.clamp({a}, -0.5, 1.5)", "1 / (1 + {a} * {a})",
    "torch.where({a} > {b}, {a}, {c})", "torch.where(({a} > 0) & ({b} <= 0.3), {c}, {a})",
    "torch.sigmoid({a}) * {b} + (1 - torch.sigmoid({a})) * {c}", "{a}.masked_fill({b} < 0, 0.25)",
    "torch.lerp({a}, {b}, 0.3)",
)  # fmt: skip


def drawn(seed: int) -> tuple[fused_lstm.Cell, str]:
    """Return a cell and its text."""
    draw = random.Random(seed)
    gates = [f"gate{k}" for k in range(draw.randint(1, draw.choice([4, 4, 8])))]
    states = draw.choice(["", "h", "s0", "s0 s1", "s0 h", "s0 s1 s2"]).split()
    weights = [f"w{k}" for k in range(draw.choice([0, 0, 0, 1, 2]))]
    inputs = ["dt"] if draw.random() < 0.15 else []
    plain = draw.random() < 0.4
    kinds = {
        name: "" if plain else draw.choice(["", "", "apart", "x_only", "h_only"]) for name in gates
    }
    if draw.random() < 0.15:
        kinds = dict.fromkeys(gates, "x_only")
    if set(kinds.values()) == {"h_only"}:
        kinds[gates[0]] = "apart"
    lines, values = [], [*states, *weights, *inputs]
    for name, kind in kinds.items():
        if kind == "apart":
            lines.append(f"{name}_x, {name}_h = {name}")
        values += [f"{name}_x", f"{name}_h"] if kind == "apart" else [name]
    first = f"{gates[0]}_h" if kinds[gates[0]] == "apart" else gates[0]
    for k in range(draw.randint(2, 14)):
        a, b, c = (draw.choice(values) for _ in "abc")
        lines.append(f"v{k} = {draw.choice(LINES).format(a=a, b=b, c=c)}")
        values.append(f"v{k}")
    recent = values[-6:]
    outputs = [draw.choice(recent) for _ in range(1 + sum(s != "h" for s in states))]
    ends = [f"torch.tanh({v} + 0.1 * {first})" for v in outputs]
    lines.append(f"return {', '.join(ends)}")
    star = ["*", *states, *weights, *inputs] if states or weights or inputs else []
    text = f"def drawn({', '.join([*gates, *star])}):\n" + "".join(f"    {x}\n" for x in lines)
    space = {"torch": torch, "F": F}
    exec(text, space)
    cell = fused_lstm.cell(
        space["drawn"], states=" ".join(states), weights=" ".join(weights),
        inputs=" ".join(inputs),
        **{
            kind: " ".join(name for name in gates if kinds[name] == kind)
            for kind in ("apart", "x_only", "h_only")
        },
    )  # fmt: skip
    return cell, text


def option_of(cell: fused_lstm.Cell, H: int, draw: random.Random) -> dict:
    """Return an argument of a layer that the cell may have, or none."""
    kind, options = CELLS[cell.name], [{}]
    if "layer_norm" in kind.options:
        options.append({"layer_norm": True})
    heads = [n for n in (2, 3, 5) if H % n == 0]
    if "num_heads" in kind.options and heads:
        options.append({"num_heads": draw.choice(heads)})
    if kind.projects and H > 1:
        options.append({"proj_size": draw.randint(1, H - 1)})
    return draw.choice(options)


@pytest.mark.parametrize("engine", [pytest.param("native", marks=needs_native), "triton"])
@pytest.mark.parametrize("seed", range(SEED, SEED + EXAMPLES))
def test_drawn(seed, engine):
    cell, text = drawn(seed)
    draw = random.Random(seed)
    T, B, H = draw.randint(1, 9), draw.randint(1, 20), draw.randint(1, 70)
    option = option_of(cell, H, random.Random(1000 + seed)) if engine == "native" else {}
    module = fused_lstm.Recurrent(cell, 3, H, engine=engine, dtype=torch.float64, **option)
    x = torch.randn(T, B, 3, dtype=torch.float64, requires_grad=True)
    inputs, of_steps = [x, *module.parameters()], {}
    if cell.inputs:
        width = draw.choice([1, H])
        of_steps["dt"] = torch.rand(T, B, width, dtype=torch.float64, requires_grad=True)
        inputs.append(of_steps["dt"])
    before = {name: torch.randn(B, H, dtype=torch.float64) for name in ("h", *cell.states)}
    if "h" not in cell.states:
        before["h"] = torch.zeros(B, module.proj_size or H, dtype=torch.float64)
    states = [before[name].requires_grad_() for name in dict.fromkeys(["h", *cell.states])]
    if cell.has_c:
        inputs += states
        hx = tuple(state[None] for state in states)
        ours = results(lambda: module(x, hx, **of_steps), inputs)
        theirs = results(lambda: loop(module, x, states, **of_steps), inputs)
    else:
        ours, theirs = (
            results(f, inputs)
            for f in (lambda: module(x, **of_steps), lambda: loop(module, x, **of_steps))
        )
    try:
        assert_same(ours, theirs)
    except AssertionError as error:
        what = f"seed {seed}, T={T}, B={B}, H={H}, {option}"
        raise AssertionError(f"{what}\n{text}\n{error}") from None
