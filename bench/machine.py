"""The machine that a figure was measured on: its name, libraries, and other work on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fused_lstm import native

from . import peers

LIBRARIES = ("torch", "triton", "numpy", "opacus", "xlstm")  # besides the peers'
PROC, SYS = Path("/proc"), Path("/sys")


def versions() -> dict[str, str]:
    """Return the installed libraries that may be timed, name -> version, and Python's."""
    versions = {"python": platform.python_version()}
    versions |= {name: version for name, version in peers.installed().items() if version}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def name(device: torch.device) -> str:
    """Return the accelerator's name, or the CPU's with its family and model, cores and ISA."""
    if device.type != "cpu":
        module = torch.get_device_module(device)
        return module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)
    try:
        lines = (PROC / "cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    model = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts:
        model += f" (family {facts['cpu family']}, model {facts.get('model', '?')})"
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


SYSTEM = {  # what decides a core's clock, and who shares the core
    "governor": "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "no_turbo": "/sys/devices/system/cpu/intel_pstate/no_turbo",
    "boost": "/sys/devices/system/cpu/cpufreq/boost",
    "smt": "/sys/devices/system/cpu/smt/control",
}
SWITCHES = "MALLOC_", "OMP_", "MKL_", "ONEDNN_", "ATEN_", "FUSED_LSTM_", "KMP_"


def settings() -> dict[str, Any]:
    """Return governor, turbo and SMT where the system tells them, switches, flags, our ISA."""
    found: dict[str, Any] = {}
    for name, path in SYSTEM.items():
        try:
            found[name] = Path(path).read_text(encoding="utf-8").strip()
        except OSError:  # a virtual machine often has none
            found[name] = "unknown"
    found |= {name: value for name, value in os.environ.items() if name.startswith(SWITCHES)}
    flags = re.search(r"CXX_FLAGS=(.*?),", torch.__config__.show())
    words = flags[1].split() if flags else []
    found["torch_flags"] = " ".join(word for word in words if word.startswith(("-O", "-m")))
    found["float32"] = torch.get_float32_matmul_precision()
    if native.load() is None:
        found["native_isa"] = native.OPS.isa()
    return found


CARD = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks_throttle_reasons.active",
    "temperature.gpu", "power.draw",
)  # fmt: skip


def card(device: torch.device) -> dict[str, str]:
    """Return a GPU's driver, its clocks and why they are throttled, as nvidia-smi says; or {}.

    Of an AMD GPU the driver.
    """
    if device.type != "cuda":
        return {}
    if torch.version.hip:
        version = SYS / "module/amdgpu/version"  # of the kernel's own driver there is none
        return {"driver_version": version.read_text().strip() if version.exists() else "unknown"}
    command = ["nvidia-smi", f"--query-gpu={','.join(CARD)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    first, *_ = said.stdout.splitlines()
    return dict(zip(CARD, map(str.strip, first.split(",")), strict=True))


def commit() -> str:
    """Return the short id of the checkout's commit, "+" behind it where code differs from it.

    Results, which a run writes, and documents, which are made of them, are no code.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        others = ":!bench/results", ":!docs", ":!*.md"
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *others)
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# --- other work on the machine ---


class ForeignTime:
    """Measures the part of all cores' time that others than this process and its children took.

    `share()` is that part since the last call, 0 to 1; NaN where /proc is not Linux's.
    """

    def __init__(self) -> None:
        self._last = self._now()

    def share(self) -> float:
        """Return the part of all cores' time that was foreign since the last call."""
        before, self._last = self._last, self._now()
        if before is None or self._last is None:
            return float("nan")
        wall, busy, ours = (now - then for now, then in zip(self._last, before, strict=True))
        return min(max((busy - ours) / max(wall, 1e-9), 0.0), 1.0)

    def _now(self) -> tuple[float, float, float] | None:
        """Return seconds of all cores so far: what passed, what was busy, what was ours."""
        try:
            words = (PROC / "stat").read_text().splitlines()[0].split()[1:]
        except OSError:
            return None
        tick, cores = os.sysconf("SC_CLK_TCK"), os.cpu_count() or 1
        user, nice, system, _, _, irq, softirq, steal = (int(word) / tick for word in words[:8])
        busy = user + nice + system + irq + softirq + steal
        return time.monotonic() * cores, busy, family_seconds(os.getpid())


def family_seconds(root: int) -> float:
    """Return the processor seconds so far of process `root` and all below it."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for path in PROC.glob("[0-9]*/stat"):
        try:  # a name may have blanks and brackets in it
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        parents[pid], seconds[pid] = int(words[1]), sum(map(int, words[11:15])) / tick

    def is_below(pid: int) -> bool:
        while pid not in (root, 0):
            pid = parents.get(pid, 0)
        return pid == root

    return sum(seconds[pid] for pid in seconds if is_below(pid))


# --- other work, made ---


# Ends with its parent: one that was left over would be a neighbour of every run that follows.
BURN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep so many cores busy with processes of no use."""
    burn = [sys.executable, "-c", BURN, str(os.getpid())]
    processes = [subprocess.Popen(burn) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# --- memory that stays ---

KEEP = {  # glibc reads these when a process starts (mallopt(3)): it then keeps what is freed
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # bytes; the most that it takes
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
