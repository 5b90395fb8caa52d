"""The command line of `python -m lm.train`, with an option for every setting of `Config`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from lm import checkpoint
from lm.arguments import COUNT, SEED, Parser, add_engine, number
from lm.config import PRESETS, Choice, Config, Range
from lm.errors import UserError
from lm.precision import PRECISIONS
from lm.sources import BUILT_IN, NAMED

DTYPES = ("float32", "float64", "bfloat16")
RESUMABLE = {"epochs"}  # the settings that a resumed run may change
FIXED = {"preset", "seed", "dtype", "precision", "save"}  # other options that it may not
SWITCHES = {"evaluate": ("--no-eval", False), "cuda_graph": ("--cuda-graph", True)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for; `config` is the preset with its overrides.

    With `resume`, everything comes from the checkpoint there, unless the command line says
    otherwise; `save` is then the same directory, and `changed` says in words what is otherwise.
    """

    config: Config
    preset: str = "demo"
    data: str = BUILT_IN
    seed: int = 1
    dtype: str = "float32"
    precision: str | None = None
    lstm: str = "auto"
    fuse: str | None = None
    device: str | None = None
    threads: int | None = None
    evaluate: bool = True
    max_steps: int | None = None
    save: Path | None = None
    resume: Path | None = None
    save_every_steps: int | None = None
    save_every_minutes: float | None = None
    summary: Path | None = None
    tensorboard: Path | None = None
    cuda_graph: bool = False
    changed: tuple[str, ...] = ()

    def stored(self) -> dict[str, Any]:
        """What a checkpoint keeps, for `resume`: all but the settings and where it is itself.

        Paths are absolute, so that a run may go on from another directory.
        """
        kept = {name: getattr(self, name) for name in STORED}
        if self.data not in NAMED:
            kept["data"] = Path(self.data)
        return {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in kept.items()}


STORED = (
    *("preset", "data", "seed", "dtype", "precision", "lstm", "fuse", "device", "threads"),
    *("evaluate", "max_steps", "save_every_steps", "save_every_minutes", "summary", "tensorboard"),
    "cuda_graph",
)


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line `argv`, or this process's; exit with status 2 on a bad one.

    Raises UserError where `--resume` names no sound checkpoint.
    """
    parser = _parser()
    given = vars(parser.parse_args(argv))
    settings = {setting.name for setting in dataclasses.fields(Config)}
    overrides = {name: given.pop(name) for name in settings & given.keys()}
    if "resume" not in given:
        config = PRESETS[given.get("preset", Options.preset)]
        return Options(config=_replaced(parser, config, overrides), **given)
    for name in sorted(overrides.keys() - RESUMABLE | given.keys() & FIXED):
        parser.error(f"{_option(name)} cannot change with --resume: it is the checkpoint's")
    before = _resumed(given.pop("resume"))
    after = dataclasses.replace(before, config=_replaced(parser, before.config, overrides), **given)
    return dataclasses.replace(after, changed=tuple(_changes(before, after)))


def _replaced(parser: Parser, config: Config, overrides: dict[str, Any]) -> Config:
    try:
        return dataclasses.replace(config, **overrides)
    except ValueError as error:  # each is in its range: what does not go together
        parser.error(str(error))


def _resumed(directory: Path) -> Options:
    """The options of the run that `--resume` names; UserError where nothing can go on there."""
    path = checkpoint.newest(directory)
    if (last := checkpoint.newest(path.parent)) != path:
        raise UserError(
            f"--resume: '{path}' is not the newest: going on from it would remove {last.name}; "
            "copy it to a directory of its own"
        )
    about = checkpoint.read_about(path)
    unknown = about.run.keys() - set(STORED)
    if unknown:
        raise UserError(f"{about.path} is damaged: unknown option {min(unknown)!r}")
    try:
        argv = [argument for name in about.run for argument in _arguments(name, about.run[name])]
        kept = vars(_parser(_Kept).parse_args(argv))
    except ValueError as error:
        raise UserError(f"{about.path} is damaged: {error}") from None
    return Options(config=about.config, **kept, save=path.parent, resume=path.parent)


class _Kept(Parser):
    """Of options that a checkpoint has kept: they are checked as the command line's are."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _arguments(name: str, value: Any) -> list[str]:
    """The option `name` as the command line would have it."""
    if isinstance(value, bool) != (name in SWITCHES) or "\0" in str(value):
        raise ValueError(f"option {name!r} is {value!r}")
    if name in SWITCHES:
        return [SWITCHES[name][0]] if value == SWITCHES[name][1] else []
    return [] if value is None else [f"{_option(name)}={value}"]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _changes(before: Options, after: Options) -> Iterator[str]:
    """What the command line of a resumed run changes, in words."""
    old, new = ({**o.stored(), "epochs": o.config.epochs} for o in (before, after))
    for name in old:
        if new[name] == old[name]:
            continue
        was = "not given" if old[name] is None else old[name]
        switch = _arguments(name, new[name]) if name in SWITCHES else []
        yield switch[0] if switch else f"{_option(name)} {new[name]}, was {was}"


def _parser(kind: type[Parser] = Parser) -> Parser:
    parser = kind(
        "lm.train",
        "Train a word-level LSTM language model on any engine of `fused_lstm`.",
        argument_default=argparse.SUPPRESS,
    )
    _add_run(parser.add_argument_group("the run"))
    _add_files(parser.add_argument_group("files"))
    group = parser.add_argument_group("settings", "each overrides the value of the preset")
    kinds = get_type_hints(Config)
    for setting in dataclasses.fields(Config):
        _add_setting(group, setting, kinds[setting.name])
    return parser


def _add_run(group: argparse._ArgumentGroup) -> None:
    """The options that are not settings of the model or its training."""
    texts = "ptb.{train,valid,test}.txt, wiki.{train,valid,test}.tokens or {train,valid,test}.txt"
    add, count = group.add_argument, number(int, COUNT)
    add(
        "--data",
        metavar="NAME",
        help=f"{', '.join(NAMED)}, or a directory with {texts} [{BUILT_IN}]",
    )
    add("--preset", choices=PRESETS, help="settings to start from [demo]")
    add("--max-steps", type=count, metavar="N", help="stop after N training steps")
    add("--no-eval", dest="evaluate", action="store_false", help="no valid and test perplexity")
    add("--seed", type=number(int, SEED), metavar="N", help="of the random numbers [1]")
    add("--dtype", choices=DTYPES, help="bfloat16: products in bfloat16, parameters in float32 "
        "[float32]")  # fmt: skip
    add("--precision", choices=PRECISIONS, help="of float32 products: high and medium may round "
        "their factors to 11 and 8 bits [as PyTorch's switches are]")  # fmt: skip
    add("--cuda-graph", action=argparse.BooleanOptionalAction, help="launch a training step as one "
        "CUDA graph")  # fmt: skip
    add_engine(group)


def _add_files(group: argparse._ArgumentGroup) -> None:
    add, minutes = group.add_argument, number(float, Range(0, open_low=True))
    add("--save", type=Path, metavar="DIR", help="write a checkpoint there after every epoch, and "
        "log.csv")  # fmt: skip
    add("--save-every-steps", type=number(int, COUNT), metavar="N", help="and every N steps")
    add("--save-every-minutes", type=minutes, metavar="M", help="and every M minutes")
    add("--resume", type=Path, metavar="DIR", help="go on from the newest checkpoint in DIR, with "
        "its options, and save there")  # fmt: skip
    add("--summary", type=Path, metavar="FILE", help="write the run's figures there, as JSON")
    add("--tensorboard", type=Path, metavar="DIR", help="write the curves there for TensorBoard")


def _add_setting(group: argparse._ArgumentGroup, setting: dataclasses.Field, kind: type) -> None:
    valid, option = setting.metadata["valid"], _option(setting.name)
    if kind is bool:
        group.add_argument(option, action="store_true", help=f"{setting.metadata['help']} [no]")
        return
    values = {name: getattr(config, setting.name) for name, config in PRESETS.items()}
    shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
    group.add_argument(
        option,
        type=number(kind, valid) if isinstance(valid, Range) else kind,
        choices=valid.words if isinstance(valid, Choice) else None,
        metavar={int: "N", float: "X", str: None}[kind],
        help=f"{setting.metadata['help']}; {valid} [{shown}]",
    )


def _short(value: int | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
