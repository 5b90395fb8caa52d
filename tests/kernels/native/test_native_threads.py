"""The native engine's threads: how many, bound or not, in a forked child, under a quota."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fresh
import fused_lstm
from bench import kernels
from fused_lstm import native
from tolerance import assert_close

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"
)
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores, and a system that binds")
BINDINGS = {
    "unbound": {},
    "true": {"OMP_PROC_BIND": "true"},
    "close": {"OMP_PROC_BIND": "close"},
    "spread": {"OMP_PROC_BIND": "spread"},
    "GOMP": {"GOMP_CPU_AFFINITY": " ".join(map(str, CORES))},
}
SETUP = """
import os, time, torch
from fused_lstm import native

torch.set_num_threads(2)

weights = [p.detach() for p in torch.nn.LSTM(256, 256).parameters()]
x, states = torch.randn(100, 1, 256), torch.zeros(2, 1, 1, 256)
call = lambda: native.OPS.lstm(x, *states, weights, 0.0, None, "layers", False)[0]

def threads():  # of Linux
    return set(map(int, os.listdir("/proc/self/task")))
"""


def python(script: str, **environment: str) -> str:
    """Return what a process of two threads prints, bound as its environment says."""
    bound = ("OMP_", "GOMP_", "KMP_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(bound)}
    done = subprocess.run(
        [sys.executable, "-c", SETUP + script],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@two_cores
@pytest.mark.parametrize(
    "binding",
    [pytest.param(name, marks=[] if name == "GOMP" else pytest.mark.slow) for name in BINDINGS],
)
def test_bound_threads_are_as_fast(binding):
    """A bound thread may use one core, but its team has two: it took three times one thread's time.

    The least of many calls, because other processes are at work here.
    """
    script = """
def least(threads):
    torch.set_num_threads(threads)
    times = []
    for _ in range(100):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)

print(least(2) / least(1))
"""
    assert float(python(script, **BINDINGS[binding])) < 1.5


@two_cores
def test_workers_on_one_core_part():
    """Both on one core stay there where the other is busy: the system moves neither."""
    script = """
import subprocess, sys

def core(thread):
    with open(f"/proc/self/task/{thread}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[36])

cores, before, apart = sorted(os.sched_getaffinity(0))[:2], threads(), 0
call()
team = [os.getpid(), *(threads() - before)]
assert len(team) == 2
neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    os.sched_setaffinity(neighbour.pid, cores[1:])
    for _ in range(40):
        for mask in (cores[:1], cores):
            for thread in team:
                os.sched_setaffinity(thread, mask)
        call()
        apart += core(team[0]) != core(team[1])
finally:
    neighbour.kill()
    neighbour.wait()
print(apart)
"""
    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip("other work has the cores, and a worker none of its own")
    # Try three times: where another process of the tests has the second core, a worker has none.
    assert any(int(fresh.python(SETUP + script)) > 20 for _ in range(3))


@pytest.fixture(scope="module")
def refusing(tmp_path_factory) -> str:
    """A library in whose presence OpenMP does not give its threads back, as older ones do not."""
    folder = tmp_path_factory.mktemp("refusing")
    source, library = folder / "refuse.cpp", folder / "librefuse.so"
    source.write_text('extern "C" int omp_pause_resource_all(int) { return -1; }\n')
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    return str(library)


FORKED = """
import signal
for name, before in {
    "nothing": lambda: None, "ours": call, "torch's": lambda: torch.ones(2**20).sin_()
}.items():
    if run := os.fork():
        assert os.waitpid(run, 0)[1] == 0, name
        continue
    signal.alarm(60)  # it would wait for ever for threads that it does not have
    ran = before()
    expected = ran if name == "ours" else None
    for _ in range(2):
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            os._exit(0)
        signal.alarm(60)
        found = call()
        assert expected is None or torch.equal(found, expected)
        expected = found
        assert len(os.listdir("/proc/self/task")) > 1, "one thread"
    os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("pauses", [True, False], ids=["", "OpenMP refuses"])
def test_a_forked_child_has_threads(pauses, request):
    """Before its parent has run OpenMP, after, and after torch alone has; its own child too."""
    if pauses:
        fresh.python(SETUP + FORKED)
    else:
        python(FORKED, LD_PRELOAD=request.getfixturevalue("refusing"))


MODULES = {
    "slstm": "fused_lstm.SLSTM(64, 256)",
    "heads": "fused_lstm.LSTM(64, 256, num_heads=4)",
    "hoisted": "fused_lstm.LSTM(64, 256, engine='native', fuse='hoisted')",
    "lstm": "fused_lstm.LSTM(64, 256)",
    "torch's": "torch.nn.LSTM(64, 256)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="OpenMP is used on Linux")
@pytest.mark.parametrize(
    "module",
    [pytest.param(m, marks=[pytest.mark.slow] * (m in ("slstm", "lstm"))) for m in MODULES],
)
def test_a_forked_child_trains(module):
    """PyTorch's products, which heads and hoisted call, and its sums have threads too."""
    fresh.python(f"""
import os, signal, torch, fused_lstm
torch.set_num_threads(2)
module, x = {MODULES[module]}, torch.randn(100, 16, 64)
def step():
    y = module(x)[0]
    y.backward(torch.ones_like(y))
    return y.detach().numpy().tobytes()
expected = step()
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    assert step() == expected  # the parent goes on
    os._exit(0)
signal.alarm(30)  # it would wait for ever
assert step() == expected
os._exit(0)
""")


def run(threads: int, hidden: int, B: int = 7) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    lstm = fused_lstm.LSTM(30, hidden, 2, engine="native")
    y, (h_n, c_n) = lstm(torch.randn(6, B, 30))
    (y.sum() + h_n.sum() + c_n.square().sum()).backward()
    return y, h_n, c_n, *(p.grad for p in lstm.parameters())


@two_cores
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a call has one thread")
def test_where_openmps_threads_are_awake_they_run_the_call():
    """They wait awake behind an operator of PyTorch's; another thread has half of their core."""
    script = """
import fused_lstm

def cpu_time(thread):  # s, as Linux numbers a thread's clock
    return time.clock_gettime(~thread << 3 | 6)

def has_core(thread):
    return cpu_time(thread) != cpu_time(thread)

first = threads()
many = torch.ones(1 << 20)
(openmps,) = threads() - first
layer, x = fused_lstm.prepare(torch.nn.LSTM(512, 512)), torch.randn(20, 8, 512)
call = lambda: layer(x)
many + 1
time.sleep(0.2)  # until OpenMP's thread sleeps
first = threads()
call()
(own,) = threads() - first
end = time.perf_counter() + 0.3
while time.perf_counter() < end:
    many + 1
    call()
awake = without_own = 0
end = time.perf_counter() + 8
while awake < 25 and time.perf_counter() < end:  # a busy machine leaves few
    many + 1
    if has_core(openmps) and has_core(openmps):
        awake += 1
        had = cpu_time(own)
        call()
        without_own += cpu_time(own) == had
print(awake, without_own)
"""
    awake, without_own = map(int, python(script).split())
    if awake < 10:
        pytest.skip("OpenMP's thread had no core: the machine is too busy")
    # It was none on a quiet machine and up to a quarter beside a busy process.
    assert without_own > 0.4 * awake, f"{without_own} of {awake} calls"


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("hidden", [19, 210])
def test_a_limited_team_is_a_smaller_one(limit, hidden):
    """Its scratch is made for so many workers, of whom OpenMP's team has more."""
    expected = run(limit, hidden)
    native.OPS.limit_team(limit)
    try:
        found = run(5, hidden)
    finally:
        native.OPS.limit_team(2**31)
    for value, same in zip(found, expected, strict=True):
        assert torch.equal(value, same)


@pytest.mark.parametrize(
    ("workers", "change"),
    [
        (4, {}),
        (8, {"hidden": 128}),
        (12, {"batch": 15}),
        (8, {"directions": 2}),
        (64, {"inputs": 64 * 16}),
        (4, {"steps": 4}),
        (4, {"threads": 4}),
        (3, {"threads": 3}),
        (1, {"hidden": 16, "inputs": 16}),
    ],
    ids=str,
)
def test_a_team_is_as_large_as_a_step_has_tiles(workers, change):
    """Tiles have 6 rows by 16 units; those of the input product count where that is more work."""
    if "avx512" not in native.OPS.isa_names():
        pytest.skip("this CPU has no avx512")
    sizes = {"steps": 100, "batch": 1, "inputs": 64, "hidden": 64, "layers": 1} | change
    options = {"threads": 64, "directions": 1} | {
        k: sizes.pop(k) for k in ("threads", "directions") if k in sizes
    }
    text = kernels.ops().plan(*sizes.values(), "layers", True, isa="avx512", **options)
    assert f"; workers: {workers};" in text


def test_few_tiles_and_many_threads_agree():
    alone, together = run(1, 20, B=2), run(5, 20, B=2)
    for value, same in zip(together, alone, strict=True):
        assert_close(value, same, "a result")


QUOTAS = {
    "none": ("0::/", {}, math.inf),
    "max": ("0::/", {"cpu.max": "max 100000"}, math.inf),
    "a core and a half": ("0::/", {"cpu.max": "150000 100000"}, 1.5),
    "of the group around": ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 5"}, 2),
    "the least of both": ("0::/a", {"cpu.max": "50000 100000", "a/cpu.max": "300000 100000"}, 0.5),
    "a container's": ("0::/not/mounted/here", {"cpu.max": "100000 100000"}, 1),
    "version 1": (
        "5:memory:/m\n4:cpu,cpuacct:/a\n0::/",
        {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.5,
    ),
    "version 1, none": (
        "4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf,
    ),
    "of another controller": ("4:cpuset:/a", {"cpu/a/cpu.max": "100000 100000"}, math.inf),
    "unreadable": ("0::/", {"cpu.max": "what"}, math.inf),
}  # fmt: skip


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_is_read(case, tmp_path):
    groups, files, expected = QUOTAS[case]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert native.granted_cores(groups, tmp_path) == expected


@pytest.mark.parametrize(("granted", "threads"), [(0.5, 1), (1.9, 1), (3.0, 3), (math.inf, 2**31)])
def test_a_team_stays_within_its_quota(monkeypatch, granted, threads):
    """Threads that are paused for the rest of a period have the others wait for them."""
    monkeypatch.setattr(native, "granted_cores", lambda groups: granted)
    assert native.most_threads.__wrapped__() == threads
