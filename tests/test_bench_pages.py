"""bench.pages: what glibc maps anew, and what it keeps where it is told to."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

from bench import pages


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept_on_demand():
    """Three blocks of 8 MiB at once, which glibc gives back: mapped anew each time, or never."""
    program = """
import torch
from bench.pages import Counted
run = Counted(lambda: [torch.ones(2**21) for _ in range(3)])
for _ in range(5): run()
print(run.pages[-1])
"""
    without = {k: v for k, v in os.environ.items() if k not in pages.KEEP}
    ask = functools.partial(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    fresh, kept = (int(ask(env=env).stdout) for env in (without, os.environ | pages.KEEP))
    assert kept == 0 < fresh
