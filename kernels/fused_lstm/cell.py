"""A cell as data: its options, the weights that a lane has for them, and the masks it draws.

The cell is what an LSTM computes between the products of a step. nn.LSTM's is `PLAIN`; each option
of `Cell` changes one thing about it, except `gru`, `rnn_tanh` and `rnn_relu`, other cells: nn.GRU's
and nn.RNN's.
docs/cells.md has the formulas and what each costs, fused_lstm.reference computes them. An engine
reads a `Cell` and has no option of its own.

T, B, I, H: time steps, batch, input size, hidden size. P: the size of h, which is H unless h is
projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .philox import dropout_mask

# Kinds of masks: what each numbers its elements from, for fused_lstm.philox. 0: between layers.
ZONEOUT_H, ZONEOUT_C, RECURRENT, CANDIDATE = (kind << 56 for kind in (1, 2, 3, 4))


@dataclass(frozen=True)
class Cell:
    """A cell. Raises ValueError, naming the option, for a value that it cannot have.

    Args:
        layer_norm: W x, R h and c are normalized, with gains (Ba, Kiros and Hinton 2016).
        peephole: gates see the cell state (Gers and Schmidhuber 2000).
        coupled: the forget gate is 1 minus the input gate (Greff et al. 2017). Not with layer_norm.
        zoneout: probability that a unit keeps its h, and its c, of the step before; a pair, or one
            number for both (Krueger et al. 2016). Outside training its expectation.
        recurrent_dropout: probability of dropping a unit of h(t-1) on its way into R, the same
            units at every step (Gal and Ghahramani 2016).
        candidate_dropout: probability of dropping a unit of g, anew at every step (Semeniuta,
            Severyn and Barth 2016).
        gru: nn.GRU's cell (Cho et al. 2014) on nn.GRU's weights, as `fused_lstm.GRU` has it; c is
            h. Not with any other.
        rnn_tanh, rnn_relu: nn.RNN's cell with either activation, on nn.RNN's weights; c is h. Not
            with any other. The engine `triton` alone has it.
    """

    layer_norm: bool = False
    peephole: bool = False
    coupled: bool = False
    zoneout: float | tuple[float, float] = 0.0
    recurrent_dropout: float = 0.0
    candidate_dropout: float = 0.0
    gru: bool = False
    rnn_tanh: bool = False
    rnn_relu: bool = False
    # Made of these once, since every call asks: the names of those that are not as in nn.LSTM, and
    # of how many weights a lane has, whether biases and weight_hr are among them.
    on: tuple[str, ...] = field(init=False, repr=False, compare=False)
    forms: dict[int, tuple[bool, bool]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in NAMES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, should be True or False")
        pair = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout, self.zoneout)
        if len(pair) != 2 or not all(map(_is_probability, pair)):
            raise ValueError(f"zoneout: got {self.zoneout!r}, should be in [0, 1], or two such")
        object.__setattr__(self, "zoneout", tuple(map(float, pair)))
        for name in ("recurrent_dropout", "candidate_dropout"):
            if not _is_probability(getattr(self, name)):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, should be in [0, 1]")
        if self.coupled and self.layer_norm:
            raise ValueError(
                "coupled: got True with layer_norm=True, should be one of them: normalized over all"
                " gates, a forget gate is no longer 1 minus the input gate"
            )
        on = tuple(n for n in OPTIONS if getattr(self, n) not in (False, 0.0, (0.0, 0.0)))
        alone = "gru", "rnn_tanh", "rnn_relu"
        for name in alone:
            if getattr(self, name) and on != (name,):
                other = next(option for option in on if option != name)
                raise ValueError(
                    f"{name}: got True with {other}, should be alone: an LSTM has the others"
                )
        projected = (False,) if on and on[0] in alone else (True, False)
        forms = {
            len(self.weights(1, 1, 1, *form)): form for form in product((True, False), projected)
        }
        object.__setattr__(self, "on", on)
        object.__setattr__(self, "forms", forms)

    def options(self) -> dict[str, Any]:
        """What is not as in nn.LSTM, by name."""
        return {name: getattr(self, name) for name in self.on}

    def arguments(self) -> dict[str, str | list[float]]:
        """As an operator of fused_lstm.ops takes it; nothing for nn.LSTM's."""
        if not self.on:
            return {}
        names = [n for n in NAMES if getattr(self, n)]
        rates = [*self.zones, self.recurrent_dropout, self.candidate_dropout]
        return {"cell": ",".join(names), "rates": rates}

    @staticmethod
    def of_arguments(cell: str = "", rates: Sequence[float] = ()) -> Cell:
        """The one that `arguments` says."""
        if not cell and not rates:
            return PLAIN
        z_h, z_c, recurrent, candidate = rates
        norm, peephole, coupled, *others = (name in cell for name in NAMES)
        return Cell(norm, peephole, coupled, (z_h, z_c), recurrent, candidate, *others)

    @property
    def zones(self) -> tuple[float, float]:
        """zoneout, as the pair that it is: of h and of c."""
        assert isinstance(self.zoneout, tuple)
        return self.zoneout

    @property
    def draws(self) -> bool:
        """Whether a call in training needs a seed."""
        return any((*self.zones, self.recurrent_dropout, self.candidate_dropout))

    def weights(
        self, I: int, H: int, P: int, bias: bool, projected: bool
    ) -> dict[str, tuple[int, ...]]:
        """A lane's weights in the order of a call: name, as in a state_dict, -> shape."""
        G = self.gates * H
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (G, I), "weight_hh": (G, P)}
        if bias:
            shapes["bias_ih"] = shapes["bias_hh"] = (G,)
        if projected:
            shapes["weight_hr"] = (P, H)
        if self.peephole:
            shapes["weight_ch"] = (G - H,)
        if self.layer_norm:
            shapes |= {"gain_ih": (G,), "gain_hh": (G,), "gain_c": (H,)}
            shapes |= {"bias_c": (H,)} if bias else {}
        return shapes

    @property
    def gates(self) -> int:
        """Rows of its weights / H."""
        if self.rnn_tanh or self.rnn_relu:
            return 1
        return 3 if self.coupled or self.gru else 4

    def four_gates(self, weights: Sequence[Tensor], H: int) -> tuple[Cell, Sequence[Tensor]]:
        """The same with rows for four gates, which is what engines have; where it has them, itself.

        Coupled: 1 - sigma(a) is sigma(-a), so the forget gate's rows are minus the input gate's. A
        GRU's become m, r, z, n: m is what h alone makes of n, which is then what x alone does.
        """
        if not self.coupled and not (self.gru and len(weights[0]) == 3 * H):
            return self, weights

        # Graphs, torch.func and forward mode see PyTorch's own operations.
        plain = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        plain = plain or forward_ad._current_level >= 0
        own = _plainly if plain else Spreading.apply
        if self.gru:  # weight_ih, weight_hh, bias_ih, bias_hh
            return self, [own(*OF_H if n % 2 else OF_X, w, H) for n, w in enumerate(weights)]
        # weight_hr alone has no gates, and fewer rows.
        weights = [w if len(w) < 2 * H else own(*COUPLED, w, H) for w in weights]
        return replace(self, coupled=False), weights

    def draw(
        self, seed: Tensor | None, lane: int, lanes: int, T: int, B: int, P: int, H: int
    ) -> Draws:
        """The masks of a lane, of `lanes`; seed int64, or None outside training.

        It is [1], or [2] where a call is part of a longer one: its own, and the whole's, which
        draws what is the same at every step. A unit's number among its kind's is its place in
        [lanes, T, B, P or H], or in [B, lanes, P] where one mask serves all steps. B counts rows by
        falling length where these differ.
        """

        def mask(kind: int, p: float, *shape: int) -> Tensor | None:
            if seed is None or p == 0:
                return None
            return dropout_mask(seed[:1], shape, p, kind + lane * prod(shape))

        def zones(kind: int, p: float, *shape: int) -> Tensor | float | None:
            dropped = mask(kind, p, *shape)
            if dropped is None:
                return p or None
            return (dropped == 0).to(torch.float32)

        recurrent = None
        if seed is not None and self.recurrent_dropout > 0:
            shape = B, lanes, P
            recurrent = dropout_mask(seed[-1:], shape, self.recurrent_dropout, RECURRENT)[:, lane]
        return Draws(
            zones(ZONEOUT_H, self.zones[0], T, B, P),
            zones(ZONEOUT_C, self.zones[1], T, B, H),
            recurrent,
            mask(CANDIDATE, self.candidate_dropout, T, B, H),
        )


# What an operator is told by name, since it changes weights.
NAMES = "layer_norm", "peephole", "coupled", "gru", "rnn_tanh", "rnn_relu"
OPTIONS = tuple(option.name for option in fields(Cell) if option.init)


def spread(weight: Tensor, H: int) -> Tensor:
    """Rows i, others -> i, f = -i, others."""
    return torch.cat([weight[:H], -weight[:H], weight[H:]])


def folded(grad: Tensor, H: int) -> Tensor:
    """The transpose of `spread`."""
    return torch.cat([grad[:H] - grad[H : 2 * H], grad[2 * H :]])


def spread_x(weight: Tensor, H: int) -> Tensor:
    """Rows r, z, n that x is multiplied by -> m = 0, r, z, n."""
    return torch.cat([torch.zeros_like(weight[:H]), weight])


def folded_x(grad: Tensor, H: int) -> Tensor:
    """The transpose of `spread_x`."""
    return grad[H:]


def spread_h(weight: Tensor, H: int) -> Tensor:
    """Rows r, z, n that h is multiplied by -> m = n, r, z, n = 0."""
    return torch.cat([weight[2 * H :], weight[: 2 * H], torch.zeros_like(weight[:H])])


def folded_h(grad: Tensor, H: int) -> Tensor:
    """The transpose of `spread_h`."""
    return torch.cat([grad[H : 3 * H], grad[:H]])


COUPLED, OF_X, OF_H = (spread, folded), (spread_x, folded_x), (spread_h, folded_h)


def _plainly(function, _transpose, tensor, H):
    return function(tensor, H)


class Spreading(torch.autograd.Function):
    """apply(function, transpose, tensor, H), in one pass each way; autograd's own takes four."""

    @staticmethod
    def forward(ctx, function, transpose, tensor, H):
        ctx.given = transpose, function, H
        return function(tensor, H)

    @staticmethod
    def backward(ctx, grad):
        transpose, function, H = ctx.given
        return None, None, Spreading.apply(transpose, function, grad, H), None


class Draws(NamedTuple):
    """The masks of a lane, or of one of its steps; None: nothing is drawn."""

    zoneout_h: Tensor | float | None = None  # [T, B, P], 1 where a unit keeps its h; or how likely
    zoneout_c: Tensor | float | None = None  # [T, B, H], the same of c
    recurrent: Tensor | None = None  # [B, P], what h(t-1) is multiplied by before R
    candidate: Tensor | None = None  # [T, B, H], what g is multiplied by

    def at(self, t: int) -> Draws:
        """Those of step t."""
        h, c = (of[t] if isinstance(of, Tensor) else of for of in (self.zoneout_h, self.zoneout_c))
        g = None if self.candidate is None else self.candidate[t]
        return Draws(h, c, self.recurrent, g)


NOTHING = Draws()


def _is_probability(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= 1


PLAIN, GRU = Cell(), Cell(gru=True)  # nn.LSTM's, nn.GRU's
