"""The suite's options, its cases, and what pytest-benchmark writes into a result file.

Nothing here runs unless `--benchmark-only` is given: plain `pytest` times nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bench import contenders
from bench.alone import MODES, SIZES, choose_sizes
from bench.contenders import LOOP, Contender
from bench.measure import machine
from bench.measure.timing import Quartiles
from bench.report.results import Row
from bench.suite import Session
from lm.command import UserError
from lm.device import open_device

HERE = Path(__file__).parent
COLUMNS = ["min", "median", "iqr", "rounds"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fused-lstm benchmarks")
    sizes = ",".join(SIZES)
    group.addoption("--sizes", default=sizes, help=f"presets to time, of {sizes} [all]")
    group.addoption(
        "--engines",
        help="engines, engine-level pairs and peers to time, such as loop,native-steps,jax;"
        " 'all' for everything at every size, which may compile for many minutes"
        " [everything where it fits 8 minutes in all]",
    )
    group.addoption("--device", help="such as cpu or cuda:1 [an accelerator if there is one]")
    group.addoption(
        "--dtype", default="float32", choices=DTYPES, help="of the LSTM alone [float32]"
    )
    group.addoption(
        "--seconds",
        type=float,
        default=3.0,
        help="for each group of cases, once each has had five rounds [3]",
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its own options
def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("benchmark_columns"):
        config.option.benchmark_columns = COLUMNS
    if config.option.benchmark_sort == "min":
        config.option.benchmark_sort = "fullname"  # which the groups below make a place


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if HERE in collection_path.parents and not config.getoption("benchmark_only"):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under --benchmark-only the tests are not even skipped one by one."""
    if config.getoption("benchmark_only"):
        others = [i for i in items if HERE not in i.path.parents]
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = [i for i in items if HERE in i.path.parents]


def device_of(config: pytest.Config) -> torch.device:
    """What --device asks for; UsageError for what is no device."""
    try:
        return open_device(config.getoption("device"))
    except UserError as error:
        raise pytest.UsageError(str(error)) from None


# --- cases ---


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case for each contender at each size (and mode), or at each of a module's POINTS."""
    names, config = metafunc.fixturenames, metafunc.config
    module: Any = metafunc.module
    if "contender" not in names:
        return
    if "point" in names:
        places = [(("point",), (point,), None, module.KNOWN) for point in _points(config, module)]
    else:
        sizes = _checked(config, "sizes", choose_sizes)
        if "mode" in names:
            pairs = [(size, mode) for size in sizes for mode in MODES]
            places = [(("size", "mode"), p, p[0], contenders.everyone(p[1])) for p in pairs]
        else:
            places = [(("size",), (size,), size, contenders.trainers()) for size in sizes]
    params = [
        _case(config, values, c)
        for _, values, size, known in places
        for c in _contenders(config, size, known)
    ]
    metafunc.parametrize((*places[0][0], "contender"), params)


def _points(config: pytest.Config, module: Any) -> list:
    """All of a module's where its file or everything is asked for, else what a default run has."""
    named = any(Path(module.__file__).name in str(word) for word in config.invocation_params.args)
    everything = named or config.getoption("engines") == "all"
    return module.POINTS if everything else getattr(module, "FEW", module.POINTS)


def _contenders(config: pytest.Config, size: str | None, known: list[Contender]) -> list[Contender]:
    asked = config.getoption("engines")
    if asked == "all":
        return known
    if asked is None:
        return [c for c in known if contenders.in_default_run(c, size)]
    everyone = list(dict.fromkeys([*contenders.everyone(), *contenders.trainers()]))
    chosen = _checked(config, "engines", lambda w: contenders.choose(w.split(","), everyone))
    return [c for c in chosen if c in known]


def _checked(config: pytest.Config, option: str, choose: Callable[[str], list]) -> list:
    """What `choose` makes of the option; one line where it cannot."""
    try:
        return choose(config.getoption(option))
    except ValueError as error:
        raise pytest.UsageError(f"--{error}") from None


def _case(config: pytest.Config, values: tuple, contender: Contender) -> Any:
    why = contenders.why_not(contender, device_of(config))
    marks = [] if why is None else [pytest.mark.skip(reason=f"{contender.label}: {why}")]
    words = [str(w) for value in values for w in (value if type(value) is tuple else (value,))]
    return pytest.param(*values, contender, marks=marks, id="-".join([*words, contender.label]))


# --- fixtures ---


SESSION = pytest.StashKey[Session]()


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """The run's races."""
    dtype, seconds = DTYPES[pytestconfig.getoption("dtype")], pytestconfig.getoption("seconds")
    session = pytestconfig.stash[SESSION] = Session(device_of(pytestconfig), dtype, seconds)
    yield session
    session.close()


@pytest.fixture
def fellows(request: pytest.FixtureRequest, contender: Contender) -> list[Contender]:
    """All that this case is timed in turn with: the same function's, at the same parameters."""
    own = {k: v for k, v in request.node.callspec.params.items() if k not in ("contender", "mode")}
    found, items = [], cast("list[Any]", request.session.items)
    for item in items:
        if getattr(item, "function", None) is not request.node.function:
            continue
        params = item.callspec.params
        if all(params[k] == v for k, v in own.items()) and not item.get_closest_marker("skip"):
            found.append(params["contender"])
    return list(dict.fromkeys(found))


# --- what is printed ---


def pytest_benchmark_group_stats(benchmarks: list, group_by: str) -> list[tuple[str, list]] | None:
    """A group reads as the ladder: peers, nn.LSTM, the step loop, our levels; times as fast as the
    row above it where that is the rung below."""
    if group_by != "group":
        return None
    groups: dict[str, list] = {}
    for bench in benchmarks:
        groups.setdefault(bench["group"], []).append(bench)
    for group in groups.values():
        above = None
        group.sort(key=lambda bench: _row(bench).rank)
        for place, bench in enumerate(group):
            row = _row(bench)
            bench["name"], bench["fullname"] = row.label, f"{place:03}"
            if row.is_own and above is not None:
                bench["name"] += f" ({above['median'] / bench['median']:.2f}x)"
            above = bench if row.is_own or row.label.endswith(LOOP) else None
    return list(groups.items())


def _row(bench: Any) -> Row:
    return Row(bench["group"], (), Quartiles(0, 0, 0), bench["extra_info"])


# --- the result file ---


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info.pop("node", None)  # a host's name is nobody's business
    if (session := config.stash.get(SESSION, None)) is None:
        return
    session.peaks.measure()
    machine_info["fused_lstm"] = machine.describe(session.device) | {
        "dtype": config.getoption("dtype"),
        "product_peak_gflops": session.peaks.gflops,
        "copy_bandwidth_gb_per_second": session.peaks.gigabytes,
    }


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict) -> None:
    """Say what was left out and why, beside what was measured."""
    session = config.stash[SESSION]
    whys = {c.label: contenders.why_not(c, session.device) for c in contenders.everyone()}
    output_json["not_measured"] = {label: why for label, why in whys.items() if why}
    for bench in output_json["benchmarks"]:
        bench.pop("options", None)
        bench["params"] = None  # extra_info says it in words
        session.add_percentages(bench["extra_info"])
