"""A peer in a process of its own, driven over its pipes: one line asks for a round, one answers.

So a peer's rounds can alternate with everybody else's, and no two libraries share a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..core import CPU, Call, forward_only
from . import PEERS, PYTHON

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0  # seconds for one answer: XLA compiles for minutes
ONE_DOMAIN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerFailed(RuntimeError):
    """A peer's process ended, or could not do the work; in its own last words."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


class Remote:
    """A peer's process, which the constructor starts; `answer` waits for it.

    dtype: the name of that of its products, which its tensors need not have.
    library: a checkout whose fused_lstm it imports, in place of this one's.
    """

    def __init__(
        self,
        name: str,
        tensors: Mapping[str, Tensor | str],
        device: torch.device = CPU,
        dtype: str = "float32",
        library: Path | None = None,
    ) -> None:
        self.name, self.device = name, device
        if dtype not in PEERS[name].dtypes:
            raise PeerFailed(name, f"does not run in {dtype} here")
        self.dtype = getattr(torch, dtype) if dtype != "int8" else torch.float32
        self._folder = tempfile.TemporaryDirectory(prefix="bench-peer-")
        folder = Path(self._folder.name)
        np.savez(folder / "work.npz", **to_arrays(tensors, device, dtype))
        self._log: IO[bytes] = (folder / "log").open("w+b")
        threads = torch.get_num_threads()
        python = PYTHON if library is None else sys.executable
        command = [python, "-m", "bench.peers.worker", name, folder, str(threads)]
        self._process = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env=environment(threads, device, library),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self.seconds_to_start: float | None = None

    def call(self, modes: Sequence[str] | None = None, **more: Any) -> Call:
        """Return the call of its modes; who only infers gives no gradients."""
        modes = modes or PEERS[self.name].modes
        infers = "inference" in modes and "step" not in modes
        fields = {"gives": forward_only} if infers else {}
        bursts = {mode: partial(self.burst, mode) for mode in modes}
        return Call(bursts, self.answer, close=self.close, turns=True, **fields | more)

    def answer(self) -> dict[str, Tensor]:
        """Return its answer: minutes the first time, for it builds and compiles before."""
        if self.seconds_to_start is None:
            self.seconds_to_start = json.loads(self._read())["seconds_to_start"]
        with np.load(Path(self._folder.name) / "answer.npz") as arrays:
            return {
                name: torch.from_numpy(a).to(self.device, self.dtype) for name, a in arrays.items()
            }

    def burst(
        self, mode: str, calls: int = 1, seconds: float = 0.0, pause: float = 0.0
    ) -> list[float]:
        """Return the seconds of at least `calls` calls, and of more until `seconds` have passed."""
        return json.loads(self._ask(f"{mode} {calls} {seconds} {pause}"))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise PeerFailed(self.name, "was closed")
        with contextlib.suppress(BrokenPipeError):  # _read says why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        limit = threading.Timer(PATIENCE, self._process.kill)
        limit.start()
        line = self._process.stdout.readline()
        limit.cancel()
        if not line:
            raise PeerFailed(self.name, self._last_words(self._process.wait()))
        return line

    def _last_words(self, status: int) -> str:
        if status < 0:  # what its library last said is then not why
            return f"its process was ended by {signal.Signals(-status).name}"
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().splitlines()
        return words[-1] if words else "ended without a word"

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        self._folder.cleanup()


def environment(threads: int, device: torch.device, library: Path | None = None) -> dict[str, str]:
    """Return the peer's environment: as many threads as PyTorch has, and little talk."""
    own = dict.fromkeys(ONE_DOMAIN, str(threads))
    own |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_MODULE_LOADING": "LAZY"}
    own |= {"KERAS_BACKEND": "tensorflow"}  # in this process it may be another
    # Two frameworks on one GPU: neither may take all of its memory.
    own |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if device.type == "cpu":
        own |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if library is not None:  # this bench, that library
        own |= {"PYTHONPATH": os.pathsep.join([str(library / "kernels"), str(ROOT)])}
    return os.environ | own


def to_arrays(
    tensors: Mapping[str, Tensor | str], device: torch.device = CPU, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Return tensors as arrays; floating-point numbers that are not float64 as float32.

    Beside them `dtype`, and `tf32`, whether products may round their float32 inputs to it, as they
    may in this process.
    """
    wide = torch.float64 if dtype == "float64" else torch.float32
    found = {
        name: np.array(t)
        if isinstance(t, str)
        else (t.to(wide) if t.is_floating_point() else t).detach().cpu().numpy()
        for name, t in tensors.items()
    }
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return found | {"dtype": np.array(dtype), "tf32": np.array(tf32)}
