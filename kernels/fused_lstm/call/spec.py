"""`Spec`: everything about a call of a recurrent layer except its tensors.

A module creates a Spec in its constructor, and a call completes it. A Spec checks its values once.
Autograd, the reference and every engine get the complete Spec. docs/cells.md has the formulas of a
cell's options; fused_lstm.reference computes them.

T, B, I, H: time steps, batch, input size, hidden size. P: the size of h, which is H unless h is
projected. D: directions, 1 or 2. A lane is one layer in one direction. N, K: heads, and the H / N
units of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from .kinds import CELLS


class Units(NamedTuple):
    """Numbers of units that values of a step have, of a custom cell with products inside it."""

    gates: int
    products: tuple[int, ...]  # that each makes of a column
    factors: tuple[int, ...]  # that each multiplies
    inputs: tuple[int, ...] = ()  # of the cell's inputs
    narrow: bool = False  # gates have as many as h, and nothing has more

    def widest(self, H: int) -> int:
        """Return the most; weights of a unit are so long, whatever they meet."""
        return max(H, self.gates, *self.products, *self.factors)


LSTM_OPTIONS = (
    "layer_norm", "peephole", "coupled", "zoneout", "recurrent_dropout",
)  # fmt: skip
OPTIONS = *LSTM_OPTIONS, "recurrent_clip", "num_heads", "reverse"


OFF = (None, False, 0.0, (0.0, 0.0))  # the values of an option that is off, except num_heads' 1
# In an operator's `cell`, a custom cell's variants: with zoneout, and where h is projected.
WITH_ZONEOUT, PROJECTED = "zoneout", "projected"
# The counter of each kind of mask's first element in fused_lstm.philox. 0 is between layers.
ZONEOUT_H, ZONEOUT_C, RECURRENT = (kind << 56 for kind in (1, 2, 3))


@dataclass(frozen=True)
class Spec:
    """Everything about a call except its tensors. An invalid value is a ValueError that names it.

    Args:
        cell: "lstm", "gru", "rnn_tanh" or "rnn_relu": a cell of torch.nn, with its weights;
            "slstm": exponential gates, four states and one bias (Beck et al. 2024), or
            "slstm_exponential", whose forget gate is exp instead of sigmoid; or "gru_dreamer":
            DreamerV3's GRU, with one bias (Hafner et al. 2023).
        layer_norm: normalize W x, R h and nn.LSTM's c, with gains (Ba, Kiros and Hinton 2016).
        peephole: the gates depend on the cell state (Gers and Schmidhuber 2000).
        coupled: the forget gate is 1 minus the input gate (Greff et al. 2017). Not with layer_norm.
        zoneout: probability that a unit keeps its h, and its c, of the step before; a pair, or one
            number for both (Krueger et al. 2016). Outside training h and c are the expectation. A
            GRU uses the number for h.
        recurrent_dropout: probability of dropping a unit of h(t-1) on its way into R, the same
            units at every step (Gal and Ghahramani 2016).
        layers, directions: the numbers of layers and of directions.
        bias: whether a lane has bias_ih and bias_hh; of an sLSTM one bias.
        projection: whether h is projected, by weight_hr.
        dropout: probability of dropping an element of h between two layers, in training.
        training: False drops nothing, and replaces zoneout by its expectation.
        precision: of float32 products: None for full float32, "tf32" or "bf16".
        recompute: k: store the state of every k-th step only; None stores all.
        level: how much one kernel launch covers, a level of fused_lstm.call.choose.
        num_heads: N, blocks on the diagonal of the recurrent weights: the gates of a head depend on
            its own units of h, and weight_hh is [N, G*H/N, H/N]. Not with other options, except an
            sLSTM's.
        reverse: every lane runs from the last step to the first. Not with two directions.
        units: of a custom cell with products inside its step, where not all have hidden_size.
        recurrent_clip: of an sLSTM: the gradient by h(t-1) that comes through R is clamped to
            [-recurrent_clip, recurrent_clip] (xLSTM's and FlashRNN's gradient_recurrent_clipval).
    """

    cell: str = "lstm"
    layer_norm: bool = False
    peephole: bool = False
    coupled: bool = False
    zoneout: float | tuple[float, float] = 0.0
    recurrent_dropout: float = 0.0
    layers: int = 1
    directions: int = 1
    bias: bool = True
    projection: bool = False
    dropout: float = 0.0
    training: bool = True
    precision: str | None = None
    recompute: int | None = None
    level: str | None = None
    num_heads: int = 1
    recurrent_clip: float | None = None
    reverse: bool = False
    units: Units | None = None
    # Computed once, since every call reads them. torch.compile cannot read properties.
    options: tuple[str, ...] = field(init=False, repr=False, compare=False)  # the ones that are on
    zones: tuple[float, float] = field(init=False, repr=False, compare=False)  # zoneout of h, of c
    has_c: bool = field(init=False, repr=False, compare=False)  # whether there is a c beside h
    states: tuple[str, ...] = field(init=False, repr=False, compare=False)  # h first
    c_parts: int = field(init=False, repr=False, compare=False)  # c is [.., c_parts * H]
    is_plain_lstm: bool = field(init=False, repr=False, compare=False)  # nn.LSTM's cell
    in_heads: bool = field(
        init=False, repr=False, compare=False
    )  # see fused_lstm.operator.recurrence
    is_torchs: bool = field(init=False, repr=False, compare=False)  # a cell of torch.nn's
    draws: bool = field(init=False, repr=False, compare=False)  # whether a call needs a seed
    gates: int = field(init=False, repr=False, compare=False)
    weight_names: tuple[str, ...] = field(init=False, repr=False, compare=False)  # of one lane
    weight_dimensions: tuple[tuple[tuple[int, str], ...], ...] = field(
        init=False, repr=False, compare=False
    )
    is_dropped: bool = field(init=False, repr=False, compare=False)  # whether states or h may be
    schema_cell: str = field(init=False, repr=False, compare=False)  # an operator's `cell`
    schema_rates: tuple[float, ...] = field(init=False, repr=False, compare=False)  # its `rates`
    schema_directions: int = field(init=False, repr=False, compare=False)  # its `directions`
    schema: dict[str, Any] = field(init=False, repr=False, compare=False)
    # Its fields: a call looks its plan up by them, and `spec_of` reads them.
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        kind = CELLS[self.cell]
        zoneout = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,) * 2
        for name in ("dropout", "recurrent_dropout", "recurrent_clip"):
            if getattr(self, name) is not None:  # numpy's numbers are float's too
                self._set(name, float(getattr(self, name)))
        self._set("zoneout", (float(zoneout[0]), float(zoneout[1]) if kind.has_c else 0.0))
        on = [n for n in OPTIONS if getattr(self, n) not in OFF and n != "num_heads"]
        on = (*on, "num_heads") if self.num_heads > 1 else tuple(on)
        for option in on:
            if not kind.takes(option):
                raise ValueError(
                    f"{option}: got {getattr(self, option)}; expected {getattr(Spec, option)} with"
                    f" cell {self.cell!r}"
                )
        self._check_heads(on)
        self._set("options", on)
        self._set("zones", self.zoneout)
        self._set("states", kind.states)
        self._set("has_c", kind.has_c)
        self._set("c_parts", max(len(kind.states) - 1, 1))
        self._set("is_plain_lstm", kind.is_lstm and not on)
        self._set("in_heads", self.num_heads > 1 or not kind.in_layers)
        self._set("is_torchs", kind.of_torch and not on)
        cell_draws = any((*self.zones, self.recurrent_dropout))
        self._set("draws", self.training and (self.dropout > 0 or cell_draws))
        self._set("gates", kind.gates - self.coupled)
        weights = self._weights()
        self._set("weight_names", tuple(weights))
        self._set("weight_dimensions", tuple(weights.values()))
        names = [n for n in ("layer_norm", "peephole", "coupled") if getattr(self, n)]
        names += [] if kind.is_lstm else [self.cell]
        self._set("is_dropped", any(self.zones) or self.recurrent_dropout > 0)
        if kind.custom and self.is_dropped:
            names += [WITH_ZONEOUT]
        if kind.custom and self.projection:
            names += [PROJECTED]
        self._set("schema_cell", ",".join(names))
        self._set("schema_rates", (*self.zones, self.recurrent_dropout))
        self._set("schema_directions", -1 if self.reverse else self.directions)
        self._set("schema", self._schema())
        self._set("text", repr(self._values()))

    def _values(self) -> tuple:
        return tuple([getattr(self, name) for name in FIELDS])

    def __reduce__(self) -> tuple:
        return type(self), self._values()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell: got {self.cell!r}; expected one of {', '.join(CELLS)}")
        for name in ("layer_norm", "peephole", "coupled", "reverse"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: got {getattr(self, name)!r}; expected True or False")
        pair = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout, self.zoneout)
        if len(pair) != 2 or not all(map(_is_probability, pair)):
            raise ValueError(f"zoneout: got {self.zoneout!r}; expected a number in [0, 1], or two")
        for name in ("recurrent_dropout", "dropout"):
            if not _is_probability(getattr(self, name)):
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}; expected a number in [0, 1]"
                )
        if self.reverse and self.directions == 2:
            raise ValueError(
                "reverse: got True with bidirectional=True; expected one of them, since one of two"
                " directions is reversed already"
            )
        if self.coupled and self.layer_norm:
            raise ValueError(
                "coupled: got True with layer_norm=True; expected one of them, since a forget gate"
                " that is normalized with all gates is not 1 minus the input gate"
            )
        k = self.recompute
        if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
            raise ValueError(
                f"recompute: got {k!r}; expected None or a number of steps, at least 1"
            )
        N, clip = self.num_heads, self.recurrent_clip
        if not isinstance(N, int) or isinstance(N, bool) or N < 1:
            raise ValueError(f"num_heads: got {N!r}; expected a divisor of hidden_size")
        if clip is not None and not (isinstance(clip, int | float) and clip > 0):
            raise ValueError(f"recurrent_clip: got {clip!r}; expected None or a number above 0")

    def _check_heads(self, options: tuple[str, ...]) -> None:
        """Check that there is nothing beside heads, or an sLSTM, that these do not go with."""
        kind = CELLS[self.cell]
        if self.projection and kind.custom and not kind.projects:
            raise ValueError(
                f"proj_size: got a projection with cell {self.cell!r}; expected 0, since the cell"
                " has no state beside h, reads h, or has no gate of h"
            )
        if self.projection and (self.num_heads > 1 or not kind.in_layers):
            what = f"cell: got {self.cell!r}"
            if self.num_heads > 1:
                what = f"num_heads: got {self.num_heads}"
            raise ValueError(f"{what} with a projected h; expected none, which mixes heads")
        for option in options:
            if self.num_heads > 1 and option in LSTM_OPTIONS:
                raise ValueError(
                    f"num_heads: got {self.num_heads} with {option}; expected 1: heads do not go"
                    " with it"
                )

    def cell_options(self) -> dict[str, Any]:
        """Return the cell's options that are on, by name."""
        return {name: getattr(self, name) for name in self.options}

    def weights(self, I: int, H: int, P: int) -> dict[str, tuple[int, ...]]:
        """Return a lane's weights in the order of a call: name, as in a state_dict, -> shape."""
        return dict(zip(self.weight_names, shapes(self, I, H, P), strict=True))

    def _weights(self) -> dict[str, tuple[tuple[int, str], ...]]:
        """Return a lane's weights: name -> dimensions, each a multiple of I, H, P, K or 1."""
        G, N, of_h = self.gates, self.num_heads, CELLS[self.cell].of_h - self.coupled
        G_of_x = G - CELLS[self.cell].inputs
        of: dict[str, tuple[tuple[int, str], ...]] = {
            "weight_ih": ((G_of_x, "H"), (1, "I")),
            "weight_hh": ((of_h, "H"), (1, "P")) if N == 1 else ((N, "1"), (of_h, "K"), (1, "K")),
        }
        if self.bias and not CELLS[self.cell].in_layers:
            of["bias"] = ((G, "H"),)
        elif self.bias:
            of["bias_ih"], of["bias_hh"] = ((G_of_x, "H"),), ((of_h, "H"),)
        if self.projection:
            of["weight_hr"] = ((1, "P"), (1, "H"))
        if self.peephole:
            of["weight_ch"] = ((G - 1, "H"),)
        if CELLS[self.cell].weights:
            of["weight_ch"] = ((CELLS[self.cell].weights, "H"),)
        for k, columns in enumerate(CELLS[self.cell].inner):
            of[f"weight_inner{k}"] = ((columns, "H"), (1, "H"))
        if self.layer_norm:
            of["gain_ih"], of["gain_hh"] = ((G, "H"),), ((of_h, "H"),)
            if CELLS[self.cell].is_lstm:
                of["gain_c"] = ((1, "H"),)
                if self.bias:
                    of["bias_c"] = ((1, "H"),)
        return of

    def _schema(self) -> dict[str, Any]:
        """Return the keyword arguments of a call of operator.ops; none for nn.LSTM's defaults."""
        told: dict[str, Any] = {}
        if self.schema_directions != 1:
            told["directions"] = self.schema_directions
        if self.schema_cell or any(self.schema_rates):
            told |= {"cell": self.schema_cell, "rates": list(self.schema_rates)}
        if self.precision is not None:
            told["precision"] = self.precision
        return told


def is_reversed(spec: Spec, lane: int) -> bool:
    """Return whether a lane runs from the last step to the first."""
    return spec.reverse or lane % spec.directions == 1


def check_size(spec: Spec, H: int) -> None:
    """Check that a hidden size has a whole number of units for each head."""
    if H % spec.num_heads:
        raise ValueError(f"num_heads: got {spec.num_heads}; expected a divisor of hidden_size {H}")


def directions_of(bidirectional: object) -> int:
    """Return D, as a layer's argument `bidirectional` says it."""
    if bidirectional not in (True, False):
        raise ValueError(f"bidirectional: got {bidirectional!r}; expected True or False")
    return 1 + bool(bidirectional)


def shapes(spec: Spec, I: int, H: int, P: int) -> list[tuple[int, ...]]:
    """Return the shapes of a lane's weights, in the order of a call."""
    if spec.units is not None:
        return _with_units(spec, spec.units, I, H)
    sizes = {"I": I, "H": H, "P": P, "K": H // spec.num_heads, "1": 1}
    return [tuple([n * sizes[name] for n, name in of]) for of in spec.weight_dimensions]


def _with_units(spec: Spec, units: Units, I: int, H: int) -> list[tuple[int, ...]]:
    """Return the shapes where not all values of a step have H units."""
    kind, gates = CELLS[spec.cell], units.gates
    of_x, of_h = (kind.gates - kind.inputs) * gates, kind.of_h * gates
    found: list[tuple[int, ...]] = [(of_x, I), (of_h, H)]
    found += [(of_x,), (of_h,)] * spec.bias
    found += [(kind.weights * units.widest(H),)] * (kind.weights > 0)
    products = zip(kind.inner, units.products, units.factors, strict=True)
    return found + [(columns * made, factor) for columns, made, factor in products]


def _is_probability(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= 1


@lru_cache(maxsize=4096)
def completed(
    spec: Spec,
    lanes: int,
    weights: int,
    directions: int,
    dropout: float = 0.0,
    training: bool = True,
    precision: str | None = None,
    level: str | None = None,
) -> Spec:
    """Return `spec` completed for a call with these numbers of lanes and of weights.

    directions: as an operator's. Raises ValueError where no such call has that many weights.
    """
    if directions < 0:
        directions = -directions
        spec = replace(spec, directions=directions, reverse=True)
    fits = lanes > 0 and lanes % directions == 0 and weights % lanes == 0
    for bias, projection in FORMS if fits else ():
        if projection and (not CELLS[spec.cell].projects or spec.num_heads > 1):
            continue
        candidate = replace(
            spec, layers=lanes // directions, directions=directions, bias=bias,
            projection=projection, dropout=dropout, training=training, precision=precision,
            level=level,
        )  # fmt: skip
        if len(candidate.weight_names) == weights // lanes:
            return candidate
    each = "layer" if directions == 1 else "layer and direction"
    added = list(replace(spec, bias=True, projection=False).weights(1, 1, 1))[4:]
    raise ValueError(
        f"h_0: got {lanes} states for {weights} weights; expected"
        f" [{'L' if directions == 1 else 'L * 2'}, B, H] with two weights a {each}, or four"
        " with biases, and one more where h is projected"
        + (f"; then the cell's: {', '.join(added)}" if added else "")
    )


FORMS = (True, False), (False, False), (True, True), (False, True)  # bias, projection


@lru_cache(maxsize=4096)
def cell_of(cell: str = "", rates: tuple[float, ...] = ()) -> Spec:
    """Return the Spec of an operator's arguments `cell` and `rates`."""
    names = set(cell.split(",")) if cell else set()
    z_h, z_c, recurrent, *others = rates or (0.0,) * 3
    if any(others):
        raise ValueError(f"rates: got {list(rates)}; expected three")
    kinds, known = sorted(names & CELLS.keys()), names & {*OPTIONS, WITH_ZONEOUT, PROJECTED}
    if len(kinds) > 1 or (unknown := sorted(names - {*kinds} - known)):
        raise ValueError(
            f"cell: got {', '.join(kinds[1:] or unknown)!r}; expected a cell that this process has:"
            " import the module that makes it with fused_lstm.cell, and call its on_native()"
        )
    kind = kinds[0] if kinds else "lstm"
    options: dict[str, Any] = dict.fromkeys(known - {WITH_ZONEOUT, PROJECTED}, True)
    return Spec(kind, **options, zoneout=(z_h, z_c), recurrent_dropout=recurrent)


def of_schema(
    lanes: int,
    weights: int,
    dropout: float,
    level: str | None,
    training: bool,
    directions: int = 1,
    cell: str = "",
    rates: Sequence[float] = (),
    precision: str | None = None,
) -> Spec:
    """Return the Spec of an operator's call: the inverse of `Spec.schema`."""
    base = cell_of(cell, tuple(rates))
    return completed(base, lanes, weights, directions, dropout, training, precision, level)


FIELDS = tuple(f.name for f in fields(Spec) if f.init)


def spec_of(text: str) -> Spec:
    """Return the Spec whose `text` that is.

    A graph of torch.compile gives functions of constants a text: torch 2.11's takes no Spec there,
    and has floats as unknown numbers.
    """
    return Spec(*eval(text, {"Units": Units, "inf": inf}))


PLAIN, GRU = Spec(), Spec("gru")  # nn.LSTM's cell, nn.GRU's
