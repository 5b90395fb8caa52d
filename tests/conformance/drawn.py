"""Cells and calls drawn at random: any operations, options and names that a cell may have."""

from __future__ import annotations

import random
from functools import cache

import torch
import torch.nn.functional as F
from case import Case

import fused_lstm
from fused_lstm.call.spec import CELLS

# Names of the library's own, of Python's, of C++'s and of Triton's, of which each may be a cell's,
# a gate's or a state's.
WORDS = (
    "rnn", "rnn_tanh", "gru", "lstm", "slstm", "slstm_exponential", "layer_norm", "zoneout",
    "projected", "coupled", "peephole", "custom", "num_heads", "gate", "gates", "state", "sum",
    "step", "lane", "width", "hidden", "unit", "row", "rows", "more", "after", "before", "kept",
    "print", "other", "type", "cell", "double", "auto", "new", "register", "this", "float", "int",
    "saved", "options", "dh", "dafter", "PLAN", "HAS", "tl", "v1", "x", "m", "n", "S", "T",
)  # fmt: skip
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
    "torch.lerp({a}, {b}, 0.3)", "({a} > 0).to({a}.dtype) * 0.2 + {b}",
    # A gradient of 0 on both sides of a mask.
    "torch.round(torch.clamp({a}, -1, 1) * 7) / 7", "torch.sign(F.relu({a}))",
    "torch.floor(F.hardsigmoid({a})) - {b}", "torch.trunc({a}.masked_fill({b} < 0, 0.25)) * 0.3",
)  # fmt: skip


# Lines in which all units of a row meet.
SUMS = (
    "{a} - {a}.mean(-1, keepdim=True)", "F.layer_norm({a}, {a}.shape[-1:], eps=1e-2)",
    "F.rms_norm({a}, {a}.shape[-1:], eps=1e-2) + 0.1 * {b}", "torch.softmax({a}, -1) + 0.5 * {b}",
    "{a} / (1 + torch.abs({b}).sum(-1, keepdim=True))", "{a} + 0.1 * torch.log_softmax({b}, -1)",
    "{a} * torch.tanh({b}.amax(-1, keepdim=True))", "{a} - 0.3 * {b}.amin(-1, keepdim=True)",
    "0.2 * torch.logsumexp({a}, -1, keepdim=True) - {b}", "F.normalize({a} + 0.3, dim=-1) - {b}",
    "{a} / (1 + {b}.var(-1, correction=0, keepdim=True))",
    "{a} / (1 + torch.linalg.vector_norm({b}, dim=-1, keepdim=True))",
)  # fmt: skip


@cache
def drawn(seed: int) -> fused_lstm.Cell:
    """Return a cell: one to eight gates, no state to three, up to three products in the step."""
    draw = random.Random(seed)
    words = draw.sample(WORDS, 16)
    gates = [words.pop() for _ in range(draw.randint(1, draw.choice([4, 4, 8])))]
    names = {"h": "h", "s0": words.pop(), "s1": words.pop(), "s2": words.pop()}
    states = [names[s] for s in draw.choice(["", "h", "s0", "s0 s1", "s0 h", "s0 s1 s2"]).split()]
    weights = [f"{words.pop()}_weight" for _ in range(draw.choice([0, 0, 0, 1, 2]))]
    inputs = draw.choice([[]] * 6 + [["dt"], ["dt"], ["dt", "at"]])
    plain = draw.random() < 0.4
    kinds = {
        name: "" if plain else draw.choice(["", "", "apart", "x_only", "h_only"]) for name in gates
    }
    if draw.random() < 0.15:
        kinds = dict.fromkeys(gates, "x_only")
    if set(kinds.values()) == {"h_only"}:
        kinds[gates[0]] = "apart"
    count, more = draw.randint(2, 14), random.Random(f"products of {seed}")
    products = {words.pop(): more.choice([1, 1, 2, 4]) for _ in range(more.choice([0, 0, 1, 2, 3]))}
    # Whether values before and behind each product meet in no operation, so that units= may give
    # them other widths. Each state, and h, then is of one of these stages: the last one more often.
    narrow, last = bool(products) and more.random() < 0.5, len(products)
    stages = random.Random(f"stages of {seed}")
    stage_of = {s: stages.choice([last, last, *range(1 + last)]) for s in ("h", *states)}
    lines, others = [], [*weights[narrow:], *inputs]
    of_stage = [[s for s in states if stage_of[s] == stage] for stage in range(1 + last)]
    values = [*weights[:1], *of_stage[0]] if narrow else [*states, *others]
    for name, kind in kinds.items():
        if kind == "apart":
            lines.append(f"{name}_x, {name}_h = {name}")
        values += [f"{name}_x", f"{name}_h"] if kind == "apart" else [name]
    first = f"{gates[0]}_h" if kinds[gates[0]] == "apart" else gates[0]
    ended: list[tuple[str, list[str]]] = []  # of stages: the first value, the last ones
    places = sorted(more.randrange(count) for _ in products)
    sums = random.Random(f"sums of {seed}")
    summed = {sums.randrange(count) for _ in range(sums.choice([0, 0, 0, 1, 2, 3]))}
    for k in range(count):
        for place, (name, columns) in zip(places, products.items(), strict=True):
            if place == k:
                made = [f"{name}_made{j}" for j in range(columns)]
                fed = more.choice(values)
                if narrow and states and stages.random() < 0.5:
                    fed = stages.choice(states)
                lines.append(f"{', '.join(made)} = {name}({fed})")
                if narrow:  # what came before has another width
                    ended.append((first, values[-6:]))
                    is_last = name == [*products][-1]
                    first, values = made[0], made + of_stage[len(ended)] + others * is_last
                else:
                    values += made
        a, b, c = (draw.choice(values) for _ in "abc")
        line = draw.choice(LINES)
        line = sums.choice(SUMS) if k in summed else line
        lines.append(f"line{k} = {line.format(a=a, b=b, c=c)}")
        values.append(f"line{k}")
    ended += [(first, values[-6:])] * (1 + last - len(ended))
    results = [ended[stage_of[s]] for s in ("h", *(s for s in states if s != "h"))]
    ends = [f"torch.tanh({draw.choice(recent)} + 0.1 * {first})" for first, recent in results]
    if len(ends) > 1 and draw.random() < 0.1:  # a state that is the same after every step
        ends[-1] = f"torch.zeros_like({[s for s in states if s != 'h'][-1]})"
    lines.append(f"return {', '.join(ends)}")
    told = [*states, *weights, *inputs, *products]
    star = ["*", *told] if told else []
    name = draw.choice(WORDS)
    text = f"def {name}({', '.join([*gates, *star])}):\n" + "".join(f"    {x}\n" for x in lines)
    space = {"torch": torch, "F": F}
    exec(text, space)
    made = fused_lstm.cell(
        space[name], states=" ".join(states), weights=" ".join(weights), inputs=" ".join(inputs),
        products=products,
        **{
            kind: " ".join(name for name in gates if kinds[name] == kind)
            for kind in ("apart", "x_only", "h_only")
        },
    )  # fmt: skip
    made.text = text  # for an error's message
    return made


def units_of(
    cell: fused_lstm.Cell, H: int, draw: random.Random, engine: str
) -> tuple[tuple[str, int], ...]:
    """Return other widths than H for some values of a step, where the cell can have them."""
    told: dict[str, int] = {}
    gates = cell.gates.names[: len(cell.gates.names) - len(cell.inputs)]
    for name in (*gates, *cell.products, *cell.states):
        more = told | {name: draw.choice([draw.randint(1, 100), draw.randint(1, H)])}
        try:
            units = cell.units(H, more)
        except ValueError:
            continue
        told = more if engine == "native" or units.narrow else told
    return tuple(told.items())


def drawn_case(seed: int, engine: str = "native", call: int = 0) -> Case:
    """Return a call, one of many, of cell number `seed`, with any options that go together."""
    cell, draw = drawn(seed), random.Random(f"call {call} of {seed}")
    kind, H = CELLS[cell.name], draw.randint(1, 70)
    most = 5 if engine == "triton" else 20
    told: dict = {
        "engine": f"{engine}-{draw.choice(['layers', 'steps'])}",
        "T": draw.randint(1, 9), "B": draw.randint(1, most), "I": draw.randint(1, 9),
        "layers": 1 if cell.inputs else draw.choice([1, 1, 2, 3]),
        "directions": draw.choice([1, 1, 2, -1]), "bias": draw.random() < 0.8,
        "rows": draw.choice(["plain", "plain", "batch_first", "lengths", "packed", "unsorted"]),
        "resets": draw.random() < 0.3, "state": draw.random() < 0.6,
        "mode": draw.choice(["train", "train", "eval", "eval-no_grad", "eval-inference"]),
        "by": draw.choice(["all", "all", "y", "last", "end", "sum"]),
        "threads": draw.choice([1, 2]), "memory": draw.choice(["dense", "dense", "strided"]),
    }  # fmt: skip
    if cell.inputs:
        told["inputs"] = draw.choice(["one", "each", "both"])
    if told["mode"] not in ("train", "eval"):
        told["by"] = "all"
    extra = draw.choice(["", "norm", "heads", "proj", "zoneout", "zoneout", "recompute", "states"])
    heads = [n for n in (2, 3, 4, 5) if H % n == 0]
    if extra == "norm" and "layer_norm" in kind.options:
        told["norm"] = True
    elif extra == "heads" and "num_heads" in kind.options and heads:
        told["heads"] = draw.choice(heads)
    elif extra == "recompute" and told["mode"] in ("train", "eval"):
        told["recompute"] = draw.choice([1, 2, 3])
    if "recompute" in told:
        return Case(f"drawn.{seed}", H=H, seed=seed, **told)
    told["states"] = extra == "states" or draw.random() < 0.3
    if "heads" not in told and kind.projects and H > 1 and (extra == "proj" or draw.random() < 0.2):
        told["proj"] = True
    if "heads" not in told and "zoneout" in kind.options:
        if extra == "zoneout":
            told["zoneout"] = draw.choice([(0.3, 0.3), (0.4, 0.0), (0.0, 0.4), (1.0, 0.2)])
        if draw.random() < 0.3:
            told["rdrop"] = 0.4
    if told["layers"] > 1 and draw.random() < 0.3:
        told["drop"] = 0.3
    if cell.products and "proj" not in told:
        told["units"] = units_of(cell, H, random.Random(f"units of {call} of {seed}"), engine)
    return Case(f"drawn.{seed}", H=H, seed=seed, **told)
