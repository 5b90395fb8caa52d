"""Memory in a CPU's timings: what the system maps anew during a call, and a process's peak.

glibc gives a large block back to the system when it is freed, and the next call has it mapped and
cleared again, page by page. How often depends on what else the process has allocated before, so
that the same call of PyTorch's may take 5 ms or 8. `Counted` shows it; an environment of KEEP
makes glibc keep what is freed, as other allocators do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .timing import Timed

try:
    import resource
except ImportError:  # not Unix
    resource = None

KEEP = {  # bytes; glibc reads them when a process starts (mallopt(3))
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that it takes
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


class Counted:
    """A `Timed` that notes the pages mapped during each call in `pages`."""

    def __init__(self, run: Timed) -> None:
        self.run = run
        self.pages: list[int] = []

    def __call__(self) -> float:
        before = _mapped()
        seconds = self.run()
        self.pages.append(_mapped() - before)
        return seconds


def _mapped() -> int:
    """Pages so far that needed no reading; 0 where the system does not say."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


def peak_mib(work: Callable[[], object]) -> float | None:
    """MiB that this process holds at most while `work` runs, beyond what it held before.

    Of a process that has done nothing else: what malloc has kept of freed memory is held already.
    Linux only: None elsewhere.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        work()
        return (_status("VmHWM") - before) / 1024
    except (OSError, StopIteration):
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])
