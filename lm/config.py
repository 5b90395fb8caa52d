"""What a training run is made of: the settings, their valid ranges and the published presets.

Zaremba's presets (small, medium, large) are those of "Recurrent Neural Network Regularization"
(Zaremba, Sutskever and Vinyals, 2014), known from the TensorFlow tutorial; `blog` is the PyTorch
program that a 2017 blog post timed; `demo` is this project's own, small enough for Triton's
interpreter on two cores.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from fused_lstm import Spec


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `open_low`, `open_high` leave the end itself out.

    A whole number that 64 bits cannot hold is none of them: what it is for could not use it.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        usable = value.bit_length() < 64 if isinstance(value, int) else math.isfinite(value)
        return above and below and usable

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.open_low else f"at least {self.low:g}"
        high = f"less than {self.high:g}" if self.open_high else f"at most {self.high:g}"
        return low if math.isinf(self.high) else f"{low} and {high}"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return " or ".join(self.words)


class Switch:
    """Yes or no."""

    def __contains__(self, value: bool) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "yes or no"


def setting(
    text: str,
    valid: Range | Choice | Switch | None = None,
    default: Any = dataclasses.MISSING,
    **more: Any,
) -> Any:
    """A field that is a command-line option too, of this help and these values.

    `more`: "shown" stands for the default in the help, "metavar" for the value, "flag" for the
    option where its name is another.
    """
    return field(default=default, metadata={"help": text, "valid": valid, **more})


def _switch(text: str) -> Any:
    return setting(text, Switch(), False)


def _part(text: str) -> Any:
    """A part of something, none by default."""
    return setting(f"part {text}", Range(0, high=1), 0.0)


_COUNT = Range(1)
_POSITIVE = Range(0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; each is a command-line option of `lm.train` too.

    Raises ValueError, naming the setting and its range, for a value outside it.
    """

    num_layers: int = setting("LSTM layers", Range(1, 1000))
    hidden_size: int = setting("hidden units of a layer, and the embedding's size", _COUNT)
    num_steps: int = setting("time steps that one training step unrolls", _COUNT)
    batch_size: int = setting("columns of text read side by side in training", _COUNT)
    eval_batch_size: int = setting("columns of text for the validation perplexity", _COUNT)
    test_batch_size: int = setting("columns of text for the test perplexity", _COUNT)
    keep_prob: float = setting(
        "part of the units that dropout keeps", Range(0, high=1, open_low=True)
    )
    init_scale: float = setting(
        "weights start uniform in [-init_scale, init_scale]", Range(0, high=1000, open_low=True)
    )
    init_scope: str = setting(
        "what init_scale covers: every parameter, or the embedding and softmax weights alone, "
        "with a zero softmax bias and nn.LSTM's own start for the LSTM",
        Choice(("all", "softmax")),
    )
    optimizer: str = setting("the update rule", Choice(("sgd", "adam")))
    learning_rate: float = setting("learning rate of the first epoch", _POSITIVE)
    lr_decay: float = setting(
        "factor on the learning rate after the flat epochs", Range(0, high=1, open_low=True)
    )
    lr_schedule: str = setting(
        "the rate of each epoch after the flat ones: lr_decay applied to the first rate, as "
        "Zaremba does, or compounding, each epoch to the epoch before, as the blog post's program "
        "does; falling to nothing along a line or a cosine; or constant",
        Choice(("zaremba", "compound", "linear", "cosine", "constant")),
    )
    flat_epochs: int = setting("epochs before the learning rate decays", Range(0))
    epochs: int = setting("passes over the training text", _COUNT)
    max_grad_norm: float = setting("gradients are scaled down to this norm", _POSITIVE)
    loss_over_time: str = setting(
        "the loss that is differentiated: its sum or its mean over time (over the batch it is "
        "always the mean)",
        Choice(("sum", "mean")),
    )
    # Beyond the published presets: their defaults change nothing and cost nothing.
    # fmt: off
    accumulate: int = setting(
        "parts into which a training step divides its columns: their gradients add up to the "
        "step's, and one part's activations are in memory at a time", _COUNT, 1,
    )
    tie_weights: bool = _switch(
        "the softmax layer uses the embedding's weights (Press and Wolf, 2017)")
    weight_decay: float = setting(
        "this times the weights is added to their clipped gradient", Range(0), 0.0)
    variational_dropout: bool = _switch(
        "dropout keeps or drops a unit for all steps of a training step at once (Gal and "
        "Ghahramani, 2016)")
    weight_drop: float = setting(
        "part of the recurrent weights that each training step drops (Merity et al., 2018)",
        Range(0, high=1, open_high=True), 0.0)
    layer_norm: bool = _switch(
        "the LSTM's products and its cell state are normalized (Ba et al., 2016)")
    peephole: bool = _switch("gates see the cell state (Gers and Schmidhuber, 2000)")
    coupled: bool = _switch("the forget gate is 1 minus the input gate (Greff et al., 2017)")
    zoneout_h: float = _part("of h that keeps its value of the step before (Krueger et al., 2016)")
    zoneout_c: float = _part("of the cell state that does")
    recurrent_dropout: float = _part(
        "of h that is dropped before the recurrent weights, for all steps of a training step at "
        "once (Gal and Ghahramani, 2016)")
    candidate_dropout: float = _part("of the candidate g that is dropped (Semeniuta et al., 2016)")
    forget_bias: float = setting(
        "what the forget gate's bias starts as; 0: as the other biases", Range(0), 0.0)
    # fmt: on

    def __post_init__(self) -> None:
        kinds = get_type_hints(Config)
        for own in dataclasses.fields(self):
            check(own, getattr(self, own.name), kinds[own.name])
        self.cell()  # what does not go together

    def cell(self) -> Spec:
        """The LSTM's cell."""
        zoneout = self.zoneout_h, self.zoneout_c
        dropouts = self.recurrent_dropout, self.candidate_dropout
        return Spec("lstm", self.layer_norm, self.peephole, self.coupled, zoneout, *dropouts)

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of `epoch`, counted from 0."""
        late = max(epoch - self.flat_epochs, 0)
        left = 1 - min(late / max(self.epochs - self.flat_epochs, 1), 1)
        factor = {
            "zaremba": self.lr_decay ** max(epoch + 1 - self.flat_epochs, 0),
            # Each epoch multiplies the rate before it by decay ** max(epoch - flat, 0), so the
            # exponents 1 + 2 + ... + late add up.
            "compound": self.lr_decay ** (late * (late + 1) // 2),
            "linear": left,
            "cosine": (1 - math.cos(math.pi * left)) / 2,
            "constant": 1.0,
        }[self.lr_schedule]
        return self.learning_rate * factor


def check(field: dataclasses.Field, value: Any, kind: type) -> None:
    """Raise ValueError unless `value` is a `kind` within the setting's range."""
    kinds = (int, float) if kind is float else (kind,)  # True is no number
    if type(value) not in kinds or value not in field.metadata["valid"]:
        raise ValueError(f"{field.name} must be {field.metadata['valid']}, got {value!r}")


def _zaremba(**own: Any) -> Config:
    """As TensorFlow's tutorial had it when the figures of docs/reproduce.md entered its text.

    Epoch i, from 0, ran at `lr_decay ** max(i - max_epoch, 0)` with a max_epoch of 4, 6 and 14,
    which leaves one more epoch flat than its later releases do.
    """
    return Config(
        num_layers=2, batch_size=20, eval_batch_size=20, test_batch_size=1, init_scope="all",
        optimizer="sgd", learning_rate=1.0, lr_schedule="zaremba", loss_over_time="sum", **own,
    )  # fmt: skip


# fmt: off
PRESETS: dict[str, Config] = {
    "demo": Config(
        num_layers=1, hidden_size=128, num_steps=10, batch_size=64, eval_batch_size=64,
        test_batch_size=64, keep_prob=1.0, init_scale=0.1, init_scope="softmax", optimizer="adam",
        learning_rate=0.01, lr_decay=0.3, lr_schedule="zaremba", flat_epochs=1, epochs=2,
        max_grad_norm=1.0, loss_over_time="mean",
    ),
    "small": _zaremba(
        hidden_size=200, num_steps=20, keep_prob=1.0, init_scale=0.1, lr_decay=0.5, flat_epochs=5,
        epochs=13, max_grad_norm=5.0,
    ),
    "medium": _zaremba(
        hidden_size=650, num_steps=35, keep_prob=0.5, init_scale=0.05, lr_decay=0.8, flat_epochs=7,
        epochs=39, max_grad_norm=5.0,
    ),
    "large": _zaremba(
        hidden_size=1500, num_steps=35, keep_prob=0.35, init_scale=0.04, lr_decay=1 / 1.15,
        flat_epochs=15, epochs=55, max_grad_norm=10.0,
    ),
    "blog": Config(
        num_layers=2, hidden_size=1500, num_steps=35, batch_size=20, eval_batch_size=20,
        test_batch_size=1, keep_prob=0.35, init_scale=0.1, init_scope="softmax", optimizer="sgd",
        learning_rate=20.0, lr_decay=1 / 1.15, lr_schedule="compound", flat_epochs=14, epochs=40,
        max_grad_norm=0.25, loss_over_time="mean",
    ),
}
# fmt: on

# preset -> perplexity of the training, validation and test text that its authors published.
PUBLISHED: dict[str, tuple[float | None, float | None, float]] = {
    "small": (37.99, 121.39, 115.91),
    "medium": (48.45, 86.16, 82.07),
    "large": (37.87, 82.62, 78.29),
    "blog": (None, None, 78.04),
}
