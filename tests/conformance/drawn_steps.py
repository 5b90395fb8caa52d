"""Steps drawn at random, as modules that people write: Linear, cat, norms, several states."""

from __future__ import annotations

import linecache
import random
from functools import cache

import torch
import torch.nn.functional as F
from drawn import LINES
from torch import nn

Drawn = tuple[nn.Module, tuple[int, ...], tuple[int, ...]]  # a module, widths of x, of the states


@cache
def drawn(seed: int) -> Drawn:
    """Return a step's module, the widths of its inputs, and those of its states."""
    return Writer(random.Random(seed), seed).module()


class Writer:
    """Writes the source of a module, line by line."""

    def __init__(self, draw: random.Random, seed: int) -> None:
        self.draw, self.seed = draw, seed
        self.H = draw.choice([4, 6, 8, 12])
        self.xs = tuple(draw.choice([1, 3, 4, self.H]) for _ in range(draw.choice([1, 1, 1, 2])))
        count = draw.choice([1, 1, 2, 2, 3])
        other = draw.choice([0, 0, 0, 1, 2, 3, self.H + 1])
        self.states = (*[self.H] * (count - bool(other and count > 1)), *[other] * bool(other))
        self.init: list[str] = []
        self.body: list[str] = []
        self.values = [(f"x{k}", w) for k, w in enumerate(self.xs)]
        self.values += [(f"s{k}", w) for k, w in enumerate(self.states)]

    def module(self) -> Drawn:
        """Return a module, with seeded weights."""
        for _ in range(self.draw.randint(2, 7)):
            self.draw.choice([
                self.linear, self.linear, self.linear, self.elementwise, self.elementwise,
                self.norm, self.weight, self.move, self.detach, self.branch, self.number,
            ])()  # fmt: skip
        after = [self.next_state(k, width) for k, width in enumerate(self.states)]
        results = [self.draw.choice(self.values)[0] for _ in range(self.draw.choice([1, 1, 2]))]
        y = f"({', '.join(results)},)" if len(results) > 1 else self.head(after[0])
        xs = ", ".join(f"x{k}" for k in range(len(self.xs)))
        states = ", ".join(f"s{k}" for k in range(len(self.states)))
        lines = [f"{xs}, = x" if len(self.xs) > 1 else f"{xs} = x", f"{states}, = state"]
        lines += [*self.body, f"return {y}, ({', '.join(after)},)"]
        text = "class Drawn(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        text += "".join(f"        {line}\n" for line in [*self.init, "pass"])
        text += "    def forward(self, x, state):\n"
        text += "".join(f"        {line}\n" for line in lines)
        name = f"<drawn step {self.seed}>"
        linecache.cache[name] = len(text), None, text.splitlines(True), name
        space = {"torch": torch, "nn": nn, "F": F, "__name__": "drawn_steps"}
        exec(compile(text, name, "exec"), space)
        torch.manual_seed(self.seed)
        module = space["Drawn"]().double()
        module.text = text
        return module, self.xs, self.states

    def new(self, text: str, width: int) -> str:
        """Add a value of so many units."""
        name = f"v{len(self.values)}"
        self.body.append(f"{name} = {text}")
        self.values.append((name, width))
        return name

    def some(self, width: int | None = None) -> tuple[str, int]:
        """Return a value, of a width where one is asked for; the last ones more often."""
        fitting = [v for v in self.values if width in (None, v[1])]
        if not fitting:
            name = self.product([self.some()], width or self.H, 1)[0]
            return name, width or self.H
        return self.draw.choice(fitting[-4:] if self.draw.random() < 0.5 else fitting)

    def product(self, values: list[tuple[str, int]], width: int, chunks: int) -> list[str]:
        """Add a Linear of values side by side, split into chunks."""
        name, inputs = f"self.lin{len(self.init)}", sum(w for _, w in values)
        bias = self.draw.random() < 0.7
        self.init.append(f"{name} = nn.Linear({inputs}, {width * chunks}, bias={bias})")
        names = [n for n, _ in values]
        argument = names[0] if len(names) == 1 else f"torch.cat([{', '.join(names)}], -1)"
        made = self.new(f"{name}({argument})", width * chunks)
        if chunks == 1:
            return [made]
        self.values.pop()
        parts = [f"{made}_{k}" for k in range(chunks)]
        self.body.append(f"{', '.join(parts)} = {made}.chunk({chunks}, -1)")
        self.values += [(part, width) for part in parts]
        return parts

    def linear(self) -> None:
        values = [self.some() for _ in range(self.draw.choice([1, 2, 2, 3]))]
        self.product(values, self.H, self.draw.choice([1, 1, 2, 3, 4]))

    def elementwise(self) -> None:
        (a, width), line = self.some(), self.draw.choice(LINES)
        b, c = self.some(width)[0], self.some(width)[0]
        self.new(line.format(a=a, b=b, c=c), width)

    def norm(self) -> None:
        a, width = self.some()
        kind = self.draw.choice([
            "layer", "layer", "rms", "mean", "length", "softmax", "most", "variance", "logarithm",
        ])  # fmt: skip
        name = f"self.norm{len(self.init)}"
        if kind in ("layer", "rms"):
            self.init.append(
                f"{name} = nn.{'LayerNorm' if kind == 'layer' else 'RMSNorm'}({width})"
            )
            self.new(f"{name}({a})", width)
            return
        self.new({
            "mean": f"{a} - {a}.mean(-1, keepdim=True)",
            "length": f"{a} / ({a}.norm(dim=-1, keepdim=True) + 1)",
            "softmax": f"torch.softmax({a}, -1)",
            "most": f"{a} * torch.tanh({a}.amax(-1, keepdim=True))",
            "variance": f"{a} / (1 + {a}.var(-1, correction=0, keepdim=True))",
            "logarithm": f"{a} - 0.3 * torch.logsumexp({a}, -1, keepdim=True)",
        }[kind], width)  # fmt: skip

    def weight(self) -> None:
        (a, width), name = self.some(), f"self.w{len(self.init)}"
        self.init.append(f"{name} = nn.Parameter(torch.rand({width}))")
        line = self.draw.choice(["{w} * {a}", "torch.exp(-{w}) * {a}", "{a} + F.softplus({w})"])
        self.new(line.format(w=name, a=a), width)

    def move(self) -> None:
        a, width = self.some()
        b = self.some(width)[0]
        half = width // 2
        kinds = [f"torch.cat([{a}[:, {half}:], {b}[:, :{half}]], -1)", f"{a}.flip(-1)"]
        if width % 2 == 0:
            kinds.append(f"{a}.view(-1, 2, {half}).transpose(1, 2).flatten(1)")
            kinds.append(f"torch.stack([{a}[:, :{half}], {b}[:, {half}:]], -1).flatten(1)")
        self.new(self.draw.choice(kinds), width)

    def number(self) -> None:
        """Add a vector times one number of a row, that a Linear makes."""
        number, (a, width) = self.product([self.some()], 1, 1)[0], self.some()
        self.new(f"torch.sigmoid({number}) * {a}", width)

    def detach(self) -> None:
        a, width = self.some()
        self.new(f"{a}.detach() * {self.some(width)[0]}", width)

    def branch(self) -> None:
        a, width = self.some()
        b = self.some(width)[0]
        self.new(f"torch.where({a} > 0.1, {a}, 0.3 * {b})", width)

    def next_state(self, k: int, width: int) -> str:
        """Add the next value of a state, which does not grow; x has a part in the first one's."""
        of_x = self.product([self.some(), ("x0", self.xs[0])], width, 1)[0] if k == 0 else ""
        a, gate = of_x or self.some(width)[0], self.some(width)[0]
        text = self.draw.choice([
            "torch.tanh({a})", "torch.lerp({s}, torch.tanh({a}), torch.sigmoid({g}))",
            "0.9 * {s} + 0.1 * torch.tanh({a})", "torch.tanh({a} + {s})",
        ])  # fmt: skip
        return self.new(text.format(a=a, g=gate, s=f"s{k}"), width)

    def head(self, h: str) -> str:
        """Return y: the first state, or a head of it."""
        if self.draw.random() < 0.5:
            return h
        width = dict(self.values)[h]
        self.init.append(f"self.head = nn.Linear({width}, 3)")
        return self.draw.choice([f"self.head({h})", f"torch.log_softmax(self.head({h}), -1)"])
