"""What every test gets: a fixed seed, fresh memory full of NaN, a reason where it is skipped."""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
from pathlib import Path

# Compiled code goes where no earlier run left any, and its processes' too: one that was killed may
# have left half a file. Before torch or triton is imported, which read the names. `make gpu` has
# compiled beforehand what its tests launch.
if "BENCH_EVENTS" in os.environ:
    pass
elif "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="fused-lstm-tests-", ignore_cleanup_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(COMPILED.name, "inductor")
    os.environ["TRITON_CACHE_DIR"] = os.path.join(COMPILED.name, "triton")
else:  # one of several processes of a run, which has made the directory
    # Threads of one process would spin on the cores that the others' need.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Triton compiles in a fifth less time without lines of Python in its code. What the PTX machine
# finds then says none: `make ptx` has them.
if "BENCH_EVENTS" not in os.environ:
    os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")

# Inductor would compile six programs to ask whether vectors can be compiled.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

# Cells are compiled once for all runs: their folders are named by what they are made of.
os.environ.setdefault("FUSED_LSTM_CELLS", str(Path(__file__).parents[1] / "build" / "cells"))

import pytest
import torch

import fused_lstm  # noqa: F401  first: it chooses Triton's interpreter where there is no GPU
from bench import kernels
from fused_lstm import native
from quick_interpreter import quicken

gc.set_threshold(20_000, 20, 50)  # to look for cycles that often is a fortieth less time

if "PYTEST_XDIST_WORKER" in os.environ:  # tests of threads say how many
    torch.set_num_threads(1)

# Loads it: AMX emulated is one of the instruction sets below. `make gpu` builds no C++.
POISONS = "BENCH_EVENTS" not in os.environ and kernels.missing() is None

# torch.manual_seed keeps a stack of calls, a millisecond's work, for each kind of device it lacks.
if not torch.cuda.is_available():
    torch.manual_seed = torch.default_generator.manual_seed

PTB = Path(__file__).parents[2] / "shared" / "ptb"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that are marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {}
    if not torch.cuda.is_available():
        left_out["gpu"] = pytest.mark.skip(reason="needs an NVIDIA GPU")
    if not config.getoption("slow"):
        left_out["slow"] = pytest.mark.skip(reason="slow, and another much like it runs: --slow")
    for item in items:  # by marks: a folder's name, such as gpu, is a keyword too
        for mark in left_out.keys() & {mark.name for mark in item.iter_markers()}:
            item.add_marker(left_out[mark])
    # One worker takes all of what comes first, so that there is one pool of the PTX machine, whose
    # processes take many seconds to start.
    items.sort(key=lambda item: item.path.parent.name != "ptx")


def pytest_collection_finish() -> None:
    """Make what runs faster."""
    gc.freeze()  # what is there stays: the garbage collector need not look at it again
    # pytest hangs its handlers on each of torch's loggers that keep what they are told, for each
    # phase of each test.
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if name.startswith("torch.") and isinstance(logger, logging.Logger):
            logger.propagate = True
    quicken()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or Triton's library tells at the end what is not freed


@pytest.fixture(autouse=True)
def _seed_and_poison():
    """Seed 0; and fresh memory is NaN, so that an element nobody wrote cannot pass for a 0."""
    torch.manual_seed(0)
    if POISONS:
        kernels.ops().poison_memory(True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    if "torch._dynamo" in sys.modules:  # it compiles one function eight times, then is an error
        torch._dynamo.reset()
    torch.set_num_threads(threads)  # which --threads changes for the whole process
    # A default device that a test has left would look at each call of all the tests after it.
    assert torch.overrides._len_torch_function_stack() == 0


def isa_names(dtype: torch.dtype | None = None) -> list[str]:
    """The native engine's instruction sets on this CPU; of a dtype, with kernels of their own."""
    return native.OPS.isa_names(dtype) if native.missing(torch.device("cpu")) is None else []


def _use_isa(request):
    native.OPS.use_isa(request.param)
    yield request.param
    native.OPS.use_isa("")


# The native engine on each instruction set that this CPU has and that has kernels of its own for
# float32, for bfloat16 (most have none), or at all.
isa = pytest.fixture(_use_isa, params=isa_names(torch.float32), name="isa")
bf16_isa = pytest.fixture(_use_isa, params=isa_names(torch.bfloat16), name="bf16_isa")
every_isa = pytest.fixture(_use_isa, params=isa_names(), name="every_isa")


@pytest.fixture
def without_bfloat16():
    """Compile cells without kernels of bfloat16, half of the time: the others are avx512's."""
    if isa_names() and isa_names()[0] in ("amx", "avx512_bf16"):
        native.OPS.use_isa("avx512")
    yield
    if isa_names():
        native.OPS.use_isa("")


@pytest.fixture
def whole(request) -> bool:
    """Whether cases run too that take long where others do much the same."""
    return request.config.getoption("slow")


@pytest.fixture
def ptb() -> Path:
    if not PTB.is_dir():
        pytest.skip(f"Penn Treebank is licensed and not at {PTB}")
    return PTB


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    """Encoded texts and downloads of the tests stay out of the user's cache."""
    os.environ["FUSED_LSTM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def corpus_dir(tmp_path) -> Path:
    """A text whose next word is certain, in a language of 12 words."""
    directory = tmp_path / "text"
    directory.mkdir()
    line = " ".join(f"w{n}" for n in range(11)) + "\n"
    for split, lines in {"train": 60, "valid": 5, "test": 5}.items():
        (directory / f"{split}.txt").write_text(line * lines)
    return directory
