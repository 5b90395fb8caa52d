"""The command line of `python -m lm.train`: an option for every field of `Options` and `Config`."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, get_args, get_type_hints

from lm.arguments import COUNT, ENGINE, LEVEL, SEED, THREADS, Parser, number
from lm.config import PRESETS, Choice, Config, Range, Switch, setting
from lm.errors import UserError, reason
from lm.machine import PRECISIONS
from lm.saving import checkpoint
from lm.text.sources import BUILT_IN, NAMED, THREE_FILES

DTYPES = ("float32", "float64", "bfloat16")
RESUMABLE = {"epochs"}  # the settings that a resumed run may change
FIXED = {"preset", "seed", "dtype", "precision", "save"}  # other options that it may not
_MINUTES = Range(0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for; `config` is the preset with its overrides.

    With `resume`, everything comes from the checkpoint there, unless the command line says
    otherwise; `save` is then the same directory, and `changed` says in words what is otherwise.
    """

    config: Config
    changed: tuple[str, ...] = ()
    data: str = setting(
        f"{', '.join(NAMED)}, or a directory with {THREE_FILES}", default=BUILT_IN, metavar="NAME"
    )
    preset: str = setting("settings to start from", Choice(tuple(PRESETS)), "demo")
    max_steps: int | None = setting("stop after N training steps", COUNT, None)
    evaluate: bool = setting("valid and test perplexity", Switch(), True, flag="--eval")
    seed: int = setting("of the random numbers", SEED, 1)
    dtype: str = setting(
        "bfloat16: products in bfloat16, parameters in float32", Choice(DTYPES), "float32"
    )
    precision: str | None = setting(
        "of float32 products: high and medium may round their factors to 11 and 8 bits",
        Choice(tuple(PRECISIONS)), None, shown="as PyTorch's switches are",
    )  # fmt: skip
    cuda_graph: bool = setting("launch a training step as one CUDA graph", Switch(), False)
    lstm: str = setting(ENGINE, default="auto", metavar="ENGINE")
    fuse: str | None = setting(LEVEL, default=None, metavar="LEVEL", shown="the engine's most")
    device: str | None = setting(
        "such as cpu or cuda:1",
        default=None,
        metavar="NAME",
        shown="an accelerator if there is one",
    )
    threads: int | None = setting("of the CPU", THREADS, None, shown="PyTorch's choice")
    save: Path | None = setting(
        "write a checkpoint there after every epoch, and log.csv", default=None, metavar="DIR"
    )
    save_every_steps: int | None = setting("and every N steps", COUNT, None)
    save_every_minutes: float | None = setting("and every M minutes", _MINUTES, None, metavar="M")
    resume: Path | None = setting(
        "go on from the newest checkpoint in DIR, with its options, and save there",
        default=None, metavar="DIR",
    )  # fmt: skip
    summary: Path | None = setting(
        "write the run's figures there, as JSON", default=None, metavar="FILE"
    )
    tensorboard: Path | None = setting(
        "write the curves there for TensorBoard", default=None, metavar="DIR"
    )
    wandb: str | None = setting(
        "send the curves to this project of Weights & Biases", default=None, metavar="PROJECT"
    )

    def stored(self) -> dict[str, Any]:
        """What a checkpoint keeps, for `resume`: all but the settings and where it is itself.

        Paths are absolute, so that a run may go on from another directory.
        """
        kept = {name: getattr(self, name) for name in STORED}
        if self.data not in NAMED:
            kept["data"] = Path(self.data)
        return {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in kept.items()}


SETTINGS = {field.name: field for field in dataclasses.fields(Config)}
FIELDS = {field.name: field for field in dataclasses.fields(Options) if field.metadata}
STORED = tuple(name for name in FIELDS if name not in ("save", "resume"))


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line `argv`, or this process's.

    Raises UserError for a bad one, and where `--resume` names no sound checkpoint.
    """
    parser = _parser()
    given = vars(parser.parse_args(argv))
    if (file := given.pop("config_file", None)) is not None:  # the command line overrides it
        given = vars(parser.parse_args(list(_lines(file)))) | given
    overrides = {name: given.pop(name) for name in SETTINGS.keys() & given.keys()}
    if "resume" not in given:
        config = PRESETS[given.get("preset", Options.preset)]
        return Options(config=_replaced(config, overrides), **given)
    for name in sorted(overrides.keys() - RESUMABLE | given.keys() & FIXED):
        raise UserError(f"{_option(name)} cannot change with --resume: it is the checkpoint's")
    before = _resumed(given.pop("resume"))
    after = dataclasses.replace(before, config=_replaced(before.config, overrides), **given)
    return dataclasses.replace(after, changed=tuple(_changes(before, after)))


def _lines(file: Path) -> Iterator[str]:
    """The options in a TOML file, `name = value`, as the command line would have them."""
    fields = {_option(name)[2:].replace("-", "_"): name for name in [*FIELDS, *SETTINGS]}
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--config: {file}: {reason(error)}") from None
    for given, value in found.items():
        name = given.replace("-", "_")
        name = fields.get(name, name)
        if name not in fields.values() or isinstance(value, list | dict):
            raise UserError(f"--config: {file}: {given!r} is no option of lm.train")
        try:
            yield from _arguments(name, value)
        except UserError as error:
            raise UserError(f"--config: {file}: {error}") from None


def _replaced(config: Config, overrides: dict[str, Any]) -> Config:
    try:
        return dataclasses.replace(config, **overrides)
    except ValueError as error:  # each is in its range: what does not go together
        raise UserError(str(error)) from None


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
        kept = vars(_parser().parse_args(argv))
    except UserError as error:
        raise UserError(f"{about.path} is damaged: {error}") from None
    return Options(config=about.config, **kept, save=path.parent, resume=path.parent)


def _arguments(name: str, value: Any) -> list[str]:
    """The option `name` as the command line would have it; UserError for what it never has."""
    valid = (FIELDS.get(name) or SETTINGS[name]).metadata["valid"]
    if isinstance(value, bool) != isinstance(valid, Switch) or "\0" in str(value):
        raise UserError(f"option {name!r} is {value!r}")
    if isinstance(value, bool):
        return [_option(name) if value else _option(name).replace("--", "--no-", 1)]
    return [] if value is None else [f"{_option(name)}={value}"]


def _option(name: str) -> str:
    flag = FIELDS[name].metadata.get("flag") if name in FIELDS else None
    return flag or "--" + name.replace("_", "-")


def _changes(before: Options, after: Options) -> Iterator[str]:
    """What the command line of a resumed run changes, in words."""
    old, new = ({**o.stored(), "epochs": o.config.epochs} for o in (before, after))
    for name in old:
        if new[name] == old[name]:
            continue
        was = "not given" if old[name] is None else old[name]
        switch = isinstance(new[name], bool)
        yield (
            _arguments(name, new[name])[0] if switch else f"{_option(name)} {new[name]}, was {was}"
        )


# --- the parser ---


class _Parser(Parser):
    """Raises what is wrong: a checkpoint's options and a file's are read as the command line is."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parser() -> Parser:
    parser = _Parser(
        "lm.train",
        "Train a word-level LSTM language model on any engine of `fused_lstm`.",
        argument_default=argparse.SUPPRESS,
    )
    group = parser.add_argument_group("the run")
    group.add_argument("--config", dest="config_file", type=Path, metavar="FILE", help="options in "
        "a TOML file, `hidden_size = 200`; the command line overrides them")  # fmt: skip
    kinds = get_type_hints(Options)
    for name, field in FIELDS.items():
        shown = field.metadata.get("shown") or field.default
        _add(group, field, kinds[name], _short(shown))
    group = parser.add_argument_group("settings", "each overrides the value of the preset")
    kinds = get_type_hints(Config)
    for name, field in SETTINGS.items():
        values = {preset: getattr(config, name) for preset, config in PRESETS.items()}
        shown = ", ".join(f"{preset} {_short(value)}" for preset, value in values.items())
        _add(group, field, kinds[name], "no" if kinds[name] is bool else shown)
    return parser


def _add(group: argparse._ArgumentGroup, field: dataclasses.Field, kind: Any, shown: str) -> None:
    """The option of a field: its type, its range and its help come from the dataclass."""
    if isinstance(kind, UnionType):  # such as int | None
        kind = get_args(kind)[0]
    valid, text = field.metadata["valid"], field.metadata["help"].replace("%", "%%")
    if kind is bool:
        how = {"action": argparse.BooleanOptionalAction, "dest": field.name}
        group.add_argument(_option(field.name), help=f"{text} [{shown}]", **how)
        return
    if valid is not None and field.name not in FIELDS:
        text += f"; {valid}"
    named = {int: "N", float: "X", str: None if isinstance(valid, Choice) else "NAME"}
    group.add_argument(
        _option(field.name),
        dest=field.name,
        type=number(kind, valid) if isinstance(valid, Range) else kind,
        choices=valid.words if isinstance(valid, Choice) else None,
        metavar=field.metadata.get("metavar", named.get(kind)),
        help=f"{text} [{shown}]" if shown else text,
    )


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
