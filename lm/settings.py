"""The settings of a run: the presets, the command line of `lm.train`, a TOML file of options.

Zaremba's presets (small, medium, large) are those of "Recurrent Neural Network Regularization"
(Zaremba, Sutskever and Vinyals, 2014), known from the TensorFlow tutorial; `blog` is the PyTorch
program that a 2017 blog post timed; `demo` is this project's own, small enough for Triton's
interpreter on two cores.
"""

from __future__ import annotations

import argparse
import math
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from fused_lstm import Spec
from fused_lstm.call.spec import check_size
from lm.command import (
    COUNT,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SEED,
    SHARE,
    WHOLE,
    Parser,
    UserError,
    add_engine,
    number,
    reason,
)
from lm.data import FILE_NAMES, NAMED

# What --precision allows: PyTorch's word -> its switches' for 24 bits, TensorFloat-32's 11,
# bfloat16's 8.
PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


LAYERS = number(int, "a whole number from 1 to 1000", lambda n: 1 <= n <= 1000)
DROP = number(float, "a number, at least 0 and less than 1", lambda x: 0 <= x < 1)


# Of each setting its type, argparse's `type` or `choices` (of a switch neither), and its help.
# fmt: off
@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a model and of its training."""

    num_layers: Annotated[int, LAYERS, "LSTM layers"]
    hidden_size: Annotated[int, COUNT, "units of a layer, and the embedding's size"]
    num_steps: Annotated[int, COUNT, "time steps that one training step unrolls"]
    batch_size: Annotated[int, COUNT, "columns of text read side by side in training"]
    eval_batch_size: Annotated[int, COUNT, "columns of text for the validation perplexity"]
    test_batch_size: Annotated[int, COUNT, "columns of text for the test perplexity"]
    keep_prob: Annotated[float, SHARE, "part of the units that dropout keeps"]
    init_scale: Annotated[float, POSITIVE, "weights start uniform in ± this"]
    init_scope: Annotated[str, ("all", "softmax"), "what init_scale covers: every parameter, or "
        "the embedding and softmax weights, with a zero softmax bias and nn.LSTM's own start"]
    optimizer: Annotated[str, ("sgd", "adam"), "the update rule"]
    learning_rate: Annotated[float, POSITIVE, "of the first epoch"]
    lr_decay: Annotated[float, SHARE, "factor on the learning rate after the flat epochs"]
    lr_schedule: Annotated[str, ("zaremba", "compound", "linear", "cosine", "constant"), "the rate "
        "of each epoch after the flat ones: lr_decay applied to the first rate (Zaremba), or "
        "compounding (the blog post); falling to nothing along a line or a cosine; or constant"]
    flat_epochs: Annotated[int, WHOLE, "epochs before the learning rate decays"]
    epochs: Annotated[int, COUNT, "passes over the training text"]
    max_grad_norm: Annotated[float, POSITIVE, "gradients are scaled down to this norm"]
    loss_over_time: Annotated[str, ("sum", "mean"), "the loss's sum or mean over time is "
        "differentiated (over the batch always its mean)"]
    # Beyond the published presets: these change nothing and cost nothing.
    accumulate: Annotated[int, COUNT, "parts into which a training step divides its columns: one "
        "part's activations are in memory at a time"] = 1
    tie_weights: Annotated[bool, None, "the softmax layer uses the embedding's weights (Press and "
        "Wolf, 2017)"] = False
    cell: Annotated[str, ("lstm", "slstm"), "an LSTM, or an sLSTM: exponential gates (Beck et al., "
        "2024)"] = "lstm"
    heads: Annotated[int, COUNT, "blocks on the diagonal of the recurrent weights"] = 1
    weight_decay: Annotated[float, NOT_NEGATIVE, "times the weights, added to the gradient"] = 0.0
    variational_dropout: Annotated[bool, None, "dropout has one mask for all steps of a training "
        "step (Gal and Ghahramani, 2016)"] = False
    weight_drop: Annotated[float, DROP, "part of the recurrent weights that each training step "
        "drops (Merity et al., 2018)"] = 0.0
    layer_norm: Annotated[bool, None, "the LSTM's products and its cell state are normalized (Ba "
        "et al., 2016)"] = False
    peephole: Annotated[bool, None, "gates see the cell state (Gers, Schmidhuber, 2000)"] = False
    coupled: Annotated[bool, None, "forget gate = 1 - input gate (Greff et al., 2017)"] = False
    zoneout_h: Annotated[float, PART, "part of h that keeps its value of the step before (Krueger "
        "et al., 2016)"] = 0.0
    zoneout_c: Annotated[float, PART, "part of the cell state that does"] = 0.0
    recurrent_dropout: Annotated[float, PART, "part of h that is dropped before the recurrent "
        "weights, for all steps of a training step (Gal and Ghahramani, 2016)"] = 0.0
    forget_bias: Annotated[float, NOT_NEGATIVE, "the forget gate's first bias; 0: as the "
        "others'"] = 0.0
    # fmt: on

    def spec(self) -> Spec:
        """Return the LSTM's cell; raise ValueError for options that exclude each other."""
        if self.cell == "slstm" and self.forget_bias:
            raise ValueError(f"forget_bias: got {self.forget_bias}; expected 0 with cell 'slstm'")
        cell = Spec(
            self.cell, layer_norm=self.layer_norm, peephole=self.peephole, coupled=self.coupled,
            zoneout=(self.zoneout_h, self.zoneout_c), recurrent_dropout=self.recurrent_dropout,
            num_heads=self.heads,
        )  # fmt: skip
        check_size(cell, self.hidden_size)
        return cell

    def learning_rate_at(self, epoch: int) -> float:
        """Return the learning rate of `epoch`, counted from 0."""
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


# As TensorFlow's tutorial had it when the figures of docs/reproduce.md entered its text: epoch i,
# from 0, ran at `lr_decay ** max(i - max_epoch, 0)` with a max_epoch of 4, 6 and 14, which leaves
# one more epoch flat than its later releases do.
# fmt: off
_small = Config(
    num_layers=2, hidden_size=200, num_steps=20, batch_size=20, eval_batch_size=20,
    test_batch_size=1, keep_prob=1.0, init_scale=0.1, init_scope="all", optimizer="sgd",
    learning_rate=1.0, lr_decay=0.5, lr_schedule="zaremba", flat_epochs=5, epochs=13,
    max_grad_norm=5.0, loss_over_time="sum",
)
_large = replace(
    _small, hidden_size=1500, num_steps=35, keep_prob=0.35, init_scale=0.04, lr_decay=1 / 1.15,
    flat_epochs=15, epochs=55, max_grad_norm=10.0,
)
PRESETS: dict[str, Config] = {
    "demo": Config(
        num_layers=1, hidden_size=128, num_steps=10, batch_size=64, eval_batch_size=64,
        test_batch_size=64, keep_prob=1.0, init_scale=0.1, init_scope="softmax", optimizer="adam",
        learning_rate=0.01, lr_decay=0.3, lr_schedule="zaremba", flat_epochs=1, epochs=2,
        max_grad_norm=1.0, loss_over_time="mean",
    ),
    "small": _small,
    "medium": replace(
        _small, hidden_size=650, num_steps=35, keep_prob=0.5, init_scale=0.05, lr_decay=0.8,
        flat_epochs=7, epochs=39,
    ),
    "large": _large,
    "blog": replace(
        _large, init_scale=0.1, init_scope="softmax", learning_rate=20.0, lr_schedule="compound",
        flat_epochs=14, epochs=40, max_grad_norm=0.25, loss_over_time="mean",
    ),
}
# fmt: on

# preset -> perplexity of the training, validation and test text that its authors published.
PUBLISHED: dict[str, tuple[float | None, float | None, float]] = {
    "small": (37.99, 121.39, 115.91), "medium": (48.45, 86.16, 82.07),
    "large": (37.87, 82.62, 78.29), "blog": (None, None, 78.04),
}  # fmt: skip


# --- the command line ---

# What a resumed run may change; everything else is as the checkpoint has it.
RESUMABLE = {
    "epochs", "max_steps", "eval", "device", "threads", "lstm", "fuse", "cuda_graph", "data",
    "save_every_steps", "save_every_minutes", "summary", "tensorboard", "wandb",
}  # fmt: skip
NOT_STORED = {"config_file", "save", "resume"}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `lm.train`; what it leaves None comes from the preset."""
    parser = Parser("lm.train", "Train a word-level LSTM language model on any engine.")
    group = parser.add_argument_group("the run")
    add, switch = group.add_argument, argparse.BooleanOptionalAction
    files = " or ".join(name.format("{train,valid,test}") for name in FILE_NAMES)
    # fmt: off
    add("--config", dest="config_file", type=Path, metavar="FILE", help="options in a TOML file, "
        "`hidden_size = 200`; the command line overrides them")
    add("--preset", choices=PRESETS, default="demo", help="settings to start from [demo]")
    add("--data", default="python-docs", metavar="NAME", help=f"{', '.join(NAMED)}, or a directory "
        f"with {files} [python-docs]")
    add("--max-steps", type=COUNT, metavar="N", help="stop after N training steps")
    add("--eval", action=switch, default=True, help="valid and test perplexity [yes]")
    add("--seed", type=SEED, default=1, metavar="N", help="of the random numbers [1]")
    add("--dtype", choices=("float32", "float64", "bfloat16"), default="float32", help="bfloat16: "
        "products in bfloat16, parameters in float32 [float32]")
    add("--precision", choices=PRECISIONS, help="of float32 products: high and medium may round "
        "their factors to 11 and 8 bits [as PyTorch's switches are]")
    add("--cuda-graph", action=switch, default=False, help="launch a step as one CUDA graph [no]")
    add_engine(group)
    add("--save", type=Path, metavar="DIR", help="write a checkpoint there after every epoch, and "
        "log.csv")
    add("--save-every-steps", type=COUNT, metavar="N", help="and every N steps")
    add("--save-every-minutes", type=POSITIVE, metavar="M", help="and every M minutes")
    add("--resume", type=Path, metavar="DIR", help="go on from the newest checkpoint in DIR, with "
        "its options, and save there")
    add("--summary", type=Path, metavar="FILE", help="write the run's figures there, as JSON")
    add("--tensorboard", type=Path, metavar="DIR", help="write the curves there for TensorBoard")
    add("--wandb", metavar="PROJECT", help="send the curves to this project of Weights & Biases")
    # fmt: on
    group = parser.add_argument_group("settings", "each overrides the value of the preset")
    for name, hint in get_type_hints(Config, include_extras=True).items():
        kind, (valid, text) = hint.__origin__, hint.__metadata__
        values = {preset: getattr(config, name) for preset, config in PRESETS.items()}
        texts = {p: f"{v:.4g}" if kind is float else str(v) for p, v in values.items()}
        shown = ", ".join(f"{preset} {value}" for preset, value in texts.items())
        if len(set(texts.values())) == 1:
            shown = texts["demo"]
        how: dict[str, Any] = {"help": f"{text} [{shown}]"}
        if kind is bool:
            how["action"] = switch
        elif kind is str:
            how["choices"] = valid
        else:
            how |= {"type": valid, "metavar": "N" if kind is int else "X"}
        group.add_argument(flag(name), **how)
    return parser


def flag(name: str) -> str:
    """Return the option of a setting: --hidden-size of hidden_size."""
    return "--" + name.replace("_", "-")


def parse(argv: Sequence[str] | None, load: Callable[[Path], Any]) -> argparse.Namespace:
    """Read the command line `argv`, or this process's; raise UserError for what is wrong with it.

    It overrides --config's file, and that the checkpoint of --resume, which `load`
    (`lm.checkpoint.load`) reads, or the preset. The namespace has three more: `config`, the
    Config; `options`, what a checkpoint keeps of the others; `checkpoint`, or None.
    """
    parser = make_parser()
    argv = list(sys.argv[1:] if argv is None else argv)
    file = parser.parse_args(argv).config_file
    if file is not None:
        argv = [*read_file(file, parser), *argv]
    first = parser.parse_args(argv)
    checkpoint = None if first.resume is None else load(first.resume)
    parser.set_defaults(**checkpoint.options if checkpoint else asdict(PRESETS[first.preset]))
    args = parser.parse_args(argv)
    args.options, args.checkpoint = stored(args), checkpoint
    if checkpoint is not None:
        for name, value in checkpoint.options.items():
            if args.options[name] != value and name not in RESUMABLE:
                raise UserError(f"{flag(name)} cannot change with --resume: it is the checkpoint's")
        directory = checkpoint.path.parent
        if args.save is not None and args.save.resolve() != directory.resolve():
            raise UserError("--save cannot change with --resume: it is the checkpoint's directory")
        args.save = directory
    args.config = config_of(vars(args))
    try:
        args.config.spec()
    except ValueError as error:
        raise UserError(str(error)) from None
    return args


def read_file(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """Return the options in a TOML file as a command line; UserError names the file."""
    try:
        argv = []
        for name, value in tomllib.loads(path.read_text(encoding="utf-8")).items():
            switch = flag(name if value else f"no_{name}")
            argv.append(switch if isinstance(value, bool) else f"{flag(name)}={value}")
        parser.parse_args(argv)
        return argv
    except (OSError, RecursionError, UserError, ValueError) as error:
        raise UserError(f"--config: {path}: {reason(error)}") from None


def stored(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a checkpoint keeps of the command line; paths are absolute, whoever goes on."""
    options = {name: value for name, value in vars(args).items() if name not in NOT_STORED}
    if args.data not in NAMED:
        options["data"] = Path(args.data)
    return {n: str(v.absolute()) if isinstance(v, Path) else v for n, v in options.items()}


def config_of(options: dict[str, Any]) -> Config:
    """Return the Config among `options`."""
    return Config(**{field.name: options[field.name] for field in fields(Config)})
