"""`python -m bench.post`: the post's own table on this machine, words per second of training.

TensorFlow's step loop, the same under XLA, Keras' LSTM, JAX, stock PyTorch, and this project's
fusions one by one. All train one language model from the same weights on the same words; each is
checked against the post's program in float64 before it is timed, three losses and the update of
every weight; all take turns, and in the same rounds a step without its LSTM is timed too. The peers
are in processes of their own and compile side by side, before anything is timed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from . import machine, peers, table
from .contenders import Contender, choose_sizes, trainers, why_not
from .learner import full_float32
from .lesson import make_lesson
from .measured import Results, load
from .race import Race
from .session import Group, time_training
from .timing import quartiles
from .work import SIZES

ROOT = Path(__file__).parents[1]
LEAST = 7  # rounds of a size
LONGEST = 100.0  # seconds for them, after which three must do


def entered(device: torch.device) -> tuple[list[Contender], dict[str, str]]:
    """Who is in the table and can run, and why the others cannot."""
    labels = [line.label for line in table.lines(str(device))]
    known = [c for c in trainers() if c.label in labels]
    whys = {c.label: why_not(c, device) for c in known}
    return [c for c in known if not whys[c.label]], {n: why for n, why in whys.items() if why}


def run(
    sizes: Sequence[str], device: torch.device, seconds: float, say: Callable[[str], object]
) -> dict[str, Any]:
    """Measure; the result has the form that bench.measured reads."""
    begin, (able, absent) = time.perf_counter(), entered(device)

    def tell(what: str) -> None:
        say(f"{time.perf_counter() - begin:5.0f} s  {what}")

    races = {size: Race(make_lesson(size, device), able) for size in sizes}
    try:
        for size, race in races.items():
            race.check_own(lambda label, size=size: tell(f"checking {label}, {size}"))
        tell("peers start, and compile side by side")
        for race in races.values():
            race.start_peers()
        for size, race in races.items():
            race.check_peers(lambda label, size=size: tell(f"checking {label}, {size}"))
        found = []
        for size, race in races.items():
            tell(f"timing {size}")
            group = time_training(race, seconds, least=LEAST, longest=LONGEST)
            found += [entry(c, size, race, group) for c in able if c.label in group.samples]
            for label, error in group.failed.items():
                absent[f"{label}, {size}"] = one_line(label, error)
            race.close()
    finally:
        for race in races.values():
            race.close()
    tell("done")
    return {
        "machine_info": {"fused_lstm": machine.describe(device) | {"dtype": "float32"}},
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begin),
        "not_measured": absent,
        "benchmarks": found,
    }


def one_line(label: str, error: Exception) -> str:
    """Why a contender has no time, without its name."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    for name in (label, label.removeprefix("stock-")):
        said = said.removeprefix(f"{name}: ")
    return said[:200]


def entry(contender: Contender, size: str, race: Race, group: Group) -> dict[str, Any]:
    """One row in pytest-benchmark's form."""
    sample, label = group.samples[contender.label], contender.label
    q1, median, q3 = quartiles(sample)
    info = {
        **{"label": label, "engine": contender.engine, "fuse": contender.fuse},
        "peer": peers.PEERS[contender.engine].says if contender.peer else None,
        **{"stock": contender.stock, "suite": "train", "size": size, "mode": "training step"},
        **{"device": str(race.work.device), "dtype": "float32"},
        "tokens_per_second": race.work.words / median,
        "max_error": group.errors[label],
        **group.facts[label],
    }
    stats = {"q1": q1, "median": median, "q3": q3, "data": sample}
    return {"group": f"training, {size}", "name": label, "stats": stats, "extra_info": info}


def show(results: Results) -> str:
    """The table, what was checked, and what it explains."""
    parts = [machine.in_a_line(results.machine), table.to_text(results)]
    parts.append(
        "±: half the distance of the quartiles. x TF: to TensorFlow's step loop. LSTM: its share of"
        "\na step, by timing one without it. PyTorch's rows have its own loss, clip and SGD unless"
        "\nthey say ours. All compute the same function: TensorFlow's forget bias is 0, its loss is"
        "\nthe preset's, and its clip takes the norm of the dense gradient."
    )
    for size in results.sizes("train"):
        header, rows, _ = table.losses(results, size)
        rows = [header, *rows]
        parts.append("\n".join(f"{r[0]:24}{r[1]:>10}{r[2]:>10}{r[3]:>10}   {r[4]}" for r in rows))
    return "\n\n".join([*parts, *table.sentences(results)])


def draw(results: Results, path: Path) -> str:
    """The figure, where matplotlib is; returns a line about it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no figure: it needs matplotlib, pip install 'fused-lstm[plot]'"
    from . import figures, style

    figure = figures.training(results)
    if figure is None:
        return "no figure: nothing was measured"
    path.write_text(style.to_svg(figure, "post"), encoding="utf-8")
    return f"figure: {path}"


def in_a_process(path: Path, limit: float, *options: str) -> str:
    """What the command says with these options, or one line about why it did not end well."""
    command = [sys.executable, "-m", "bench.post", "--json", str(path), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return f"bench.post: cut off after {limit:.0f} s"
    words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return done.stdout if done.returncode == 0 else f"bench.post: {words[-1]}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench.post: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _Parser(prog="python -m bench.post", description=__doc__, allow_abbrev=False)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    add = parser.add_argument
    add("--sizes", default="small,medium", help=f"of {', '.join(SIZES)} [small,medium]")
    add("--device", default=default, help=f"such as cpu or cuda:1 [{default}]")
    add("--threads", type=int, default=threads, help=f"PyTorch's and every peer's [{threads}]")
    add("--seconds", type=float, default=20.0, help="of timing a size, or five rounds [20]")
    add("--json", type=Path, default=Path("out/post.json"), help="[out/post.json]; figure beside")
    given = parser.parse_args(argv)
    try:
        sizes = choose_sizes(given.sizes.split(","))
        device = torch.device(given.device)
        torch.empty(0, device=device)
    except ValueError as error:
        parser.error(f"--{error}")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        parser.error(f"--device {given.device}: {str(error).splitlines()[0]}")
    if not given.seconds > 0 or given.threads < 1:
        parser.error("--seconds must be more than 0, --threads at least 1")
    torch.set_num_threads(given.threads)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    with full_float32():
        result = run(sizes, device, given.seconds, lambda line: print(line, file=sys.stderr))
    given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not result["benchmarks"]:
        whys = "; ".join(f"{label}: {why}" for label, why in result["not_measured"].items())
        parser.error(f"nobody could be timed: {whys}")
    results = load(given.json)
    print(show(results))
    print(f"\nfigures: {given.json}\n{draw(results, given.json.with_suffix('.svg'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
