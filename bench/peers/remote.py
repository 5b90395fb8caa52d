"""A peer in a process of its own, driven over its pipes: one line asks for a round, one answers.

So a peer's rounds can alternate with everybody else's, and no two libraries share a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..timing import Timed
from ..work import Problem
from . import PEERS

ROOT = Path(__file__).parents[2]
ONE_DOMAIN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerFailed(Exception):
    """A peer's process ended, or could not do the work; in its own last words."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


class Remote:
    """A peer doing a problem; it has answered once when the constructor returns."""

    modes = ("inference", "step")

    def __init__(self, contender: Any, problem: Problem) -> None:
        self.name, self.device = contender.engine, problem.device
        self.dtype = problem.x.dtype
        if (dtype := dtype_name(problem)) not in PEERS[self.name].dtypes:
            raise PeerFailed(self.name, f"does not run in {dtype} here")
        self._folder = tempfile.TemporaryDirectory(prefix="bench-peer-")
        folder = Path(self._folder.name)
        np.savez(folder / "problem.npz", **to_arrays(problem))
        self._log: IO[bytes] = (folder / "log").open("w+b")
        threads = torch.get_num_threads()
        command = [sys.executable, "-m", "bench.peers.worker", self.name, folder, str(threads)]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=environment(threads, self.device),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self.about = json.loads(self._read())
        except PeerFailed:
            self.close()
            raise

    def answer(self) -> dict[str, Tensor]:
        with np.load(Path(self._folder.name) / "answer.npz") as arrays:
            return {
                name: torch.from_numpy(a).to(self.device, self.dtype) for name, a in arrays.items()
            }

    def timed(self, mode: str) -> Timed:
        return lambda: float(self._ask(mode))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # _read says why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip().splitlines()
            raise PeerFailed(self.name, words[-1] if words else "ended without a word")
        return line

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


def environment(threads: int, device: torch.device) -> dict[str, str]:
    """As many threads for the peer as PyTorch has, and little talk."""
    own = dict.fromkeys(ONE_DOMAIN, str(threads))
    own |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_MODULE_LOADING": "LAZY"}
    # Two frameworks on one GPU: neither may take all of its memory.
    own |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if device.type == "cpu":
        own |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | own


def to_arrays(problem: Problem) -> dict[str, np.ndarray]:
    """x, h0, c0, dy and nn.LSTM's weights by name; what is not float64 as float32.

    Beside them `dtype`, the name of the problem's own, and `tf32`, whether products may round
    their float32 inputs to it, as they may in this process.
    """
    named = {name: getattr(problem, name) for name in ("x", "h0", "c0", "dy")}
    named |= dict(zip(problem.names, problem.weights, strict=True))
    wide = torch.float64 if problem.x.dtype == torch.float64 else torch.float32
    found = {name: t.detach().to("cpu", wide).numpy() for name, t in named.items()}
    tf32 = problem.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return found | {"dtype": np.array(dtype_name(problem)), "tf32": np.array(tf32)}


def dtype_name(problem: Problem) -> str:
    return str(problem.x.dtype).removeprefix("torch.")
