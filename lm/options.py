"""The command line of `python -m lm.train`, with an option for every setting of `Config`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn, get_type_hints

from kernels import ENGINES
from lm.config import PRESETS, Choice, Config, Range
from lm.data import BUILT_IN

DTYPES = ("float32", "float64", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for; `config` is the preset with its overrides."""

    config: Config
    preset: str
    lstm: str
    fuse: str | None
    data: str
    device: str | None
    dtype: str
    threads: int | None
    seed: int
    max_steps: int | None
    evaluate: bool
    save: Path | None
    summary: Path | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lm.train: {message}\n")  # one line: the usage would fill a screen


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line `argv`, or this process's; exit with status 2 on a bad one."""
    given = vars(_parser().parse_args(argv))
    settings = {setting.name for setting in dataclasses.fields(Config)}
    overrides = {name: given.pop(name) for name in settings & given.keys()}
    config = dataclasses.replace(PRESETS[given["preset"]], **overrides)
    return Options(config=config, **given)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m lm.train",
        description="Train a word-level LSTM language model on any engine of `kernels`.",
        allow_abbrev=False,
    )
    _add_run(parser.add_argument_group("the run"))
    group = parser.add_argument_group("settings", "each overrides the value of the preset")
    kinds = get_type_hints(Config)
    for setting in dataclasses.fields(Config):
        _add_setting(group, setting, kinds[setting.name])
    return parser


def _add_run(group: argparse._ArgumentGroup) -> None:
    """The options that are not settings of the model or its training."""
    engines = ", ".join(("auto", *ENGINES))
    levels = ", ".join(dict.fromkeys(chain.from_iterable(e.fuses for e in ENGINES.values())))
    count, seed = Range(1), Range(0, 2**63 - 1)
    texts = "ptb.{train,valid,test}.txt, wiki.{train,valid,test}.tokens or {train,valid,test}.txt"
    add = group.add_argument
    add("--lstm", default="auto", metavar="ENGINE", help=f"{engines} [auto]")
    add("--fuse", metavar="LEVEL", help=f"what a launch covers: {levels} [the engine's most]")
    add("--data", default=BUILT_IN, metavar="NAME", help=f"{BUILT_IN}, or a directory with {texts}")
    add("--preset", default="demo", choices=PRESETS, help="settings to start from [demo]")
    add("--max-steps", type=_number(int, count), metavar="N", help="stop after N training steps")
    add("--no-eval", dest="evaluate", action="store_false", help="no valid and test perplexity")
    add("--seed", default=1, type=_number(int, seed), metavar="N", help="of the random numbers [1]")
    add("--device", metavar="NAME", help="such as cpu or cuda:1 [an accelerator if there is one]")
    add("--dtype", default="float32", choices=DTYPES, help="bfloat16: products in bfloat16, "
        "parameters in float32 [float32]")  # fmt: skip
    add("--threads", type=_number(int, count), metavar="N", help="of the CPU [PyTorch's choice]")
    add("--save", type=Path, metavar="DIR", help="write a checkpoint there after every epoch")
    add("--summary", type=Path, metavar="FILE", help="write the run's figures there, as JSON")


def _add_setting(group: argparse._ArgumentGroup, setting: dataclasses.Field, kind: type) -> None:
    valid = setting.metadata["valid"]
    values = {name: getattr(config, setting.name) for name, config in PRESETS.items()}
    shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
    group.add_argument(
        "--" + setting.name.replace("_", "-"),
        type=_number(kind, valid) if isinstance(valid, Range) else kind,
        choices=valid.words if isinstance(valid, Choice) else None,
        default=argparse.SUPPRESS,
        metavar={int: "N", float: "X", str: None}[kind],
        help=f"{setting.metadata['help']}; {valid} [{shown}]",
    )


def _short(value: int | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(kind: type, valid: Range) -> Callable[[str], int | float]:
    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or value not in valid:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what}, {valid}; got {text!r}")
        return value

    return convert
