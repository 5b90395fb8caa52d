"""How often the host calls ATen around the kernels: what an eager call costs on a fast GPU."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fresh
import fused_lstm
from fused_lstm.call.rows import of_lengths
from fused_lstm.triton import launch, op, packed
from fused_lstm.triton.devices import DEVICES

# Everything but views: each allocates memory or launches a kernel of torch's.
WORK = {"_to_copy": 1, "new_empty": 5, "empty_like": 1, "new_zeros": 1, "_foreach_add": 1}
WORK |= {"copy_": 1}
FORWARD = {
    "layers": WORK | {"addmm": 1, "views": 9},
    "steps": WORK | {"addmm": 2, "views": 12},
}
GRADIENTS = {"_to_copy": 2, "empty_like": 1, "new_empty": 2, "new_zeros": 1}
GRADIENTS |= {"cat": 2, "sum": 2, "clone": 2}  # of each layer: h(t-1), and two biases
BACKWARD = {
    "layers": GRADIENTS | {"mm": 7, "views": 21},
    "steps": GRADIENTS | {"mm": 8, "views": 21},
}


def python(script: str) -> list[Any]:
    """The lines of JSON that a process of its own prints, in which Triton's interpreter is off."""
    said = fresh.python(script, TRITON_INTERPRET="0", TRITON_DEFAULT_FP_FUSION="1")
    return [json.loads(line) for line in said.splitlines()]


# Calls of tests/in_a_graph.py; --slow has all.
CALLS = "heads of an slstm", "heads that programs share", "lengths"


@pytest.fixture(scope="module")
def said(request) -> list[dict[str, Any]]:
    """Return what tests/host_calls.py and in_a_graph.py say, which launch nothing, of an H100."""
    names = () if request.config.getoption("slow") else CALLS
    script = "import host_calls, in_a_graph; host_calls.main(); "
    return python(script + f"in_a_graph.main({names} or [*in_a_graph.CALLS])")


@pytest.fixture(scope="module")
def counted(said) -> dict[str, Any]:
    """Return what tests/host_calls.py says."""
    return said[0]


@pytest.fixture(scope="module")
def in_a_graph(said) -> dict[str, Any]:
    """Return what tests/in_a_graph.py says of calls."""
    return said[1]


@pytest.mark.parametrize("fuse", ["layers", "steps"])
@pytest.mark.parametrize(("direction", "calls"), [("forward", FORWARD), ("backward", BACKWARD)])
def test_aten_calls_of_two_layers(direction, calls, fuse, counted):
    found = counted["calls"][f"{fuse} {direction}"]
    assert found["calls"] == calls[fuse]
    assert found["launches"] == {"layers": 1, "steps": 2}[fuse]


def test_rounding_is_one_launch(counted):
    """TF32 weights that stream are rounded: two layers' w_hh, and the upper one's w_ih."""
    assert counted["calls"]["layers rounding"] == {"calls": {"empty_like": 3}, "launches": 1}


def test_other_lengths_and_batches_need_no_other_kernel(counted):
    """Compare 17 to 28 rows, 29 to 32, and any T; 40 rows are two blocks."""
    assert counted["of_sizes"] == [1, 1, 2, 2, 3]


def test_lanes_whose_size_no_16_bytes_divide_have_one_kernel_at_any_length(counted):
    """A kernel finds its lane by number: 16 would divide the addresses of some lanes alone."""
    assert counted["of_lengths"] == [[1, 1]] * 4


def test_after_the_first_call_a_launch_is_only_a_launch(counted):
    """Triton binds, specialises and looks for a kernel once; the grid is still cooperative."""
    assert counted["prepared"] == [[0, 5, True], [0, 5, True]]


def test_a_second_call_copies_nothing_between_host_and_device(in_a_graph, whole):
    """So that a CUDA graph can capture it: heads too, and lengths that a call has had before."""
    assert len(in_a_graph) == (10 if whole else 3)
    assert not {name: error for name, error in in_a_graph.items() if isinstance(error, str)}


def test_launches_of_heads_that_meet_are_cooperative(in_a_graph):
    """A small head has a program to itself, in the forward, and meets none."""
    assert in_a_graph["heads of an slstm"] == [False, True, False]
    assert in_a_graph["heads that programs share"] == [True, True, True]


def test_weights_that_are_not_aligned_have_a_kernel_of_their_own(counted):
    """Moved by 16 bytes they are; by 8 or 2 they are not, and a load of 16 would break."""
    assert counted["of_addresses"] == [1, 1, 2, 2, 2]


def test_a_state_of_another_dtype_has_a_kernel_of_its_own(counted):
    """The kernel stores c_n in c0's dtype, and an operator called directly takes any."""
    assert counted["of_states"] == [1, 2, 2]


def test_what_spills_is_compiled_again_with_all_in_its_loop(counted):
    """Once: all calls launch the one with fewer spills, of two as good the first."""
    one, two = [False], [False, True]  # as compiled; their functions are 2 and 1, of one kernel 1
    assert counted["spilling"] == [[one, [], 1], [two, [], 1], [two, [], 2], [two, [], 2]]


PARTS = """
import json
import torch
from bench.gpu import dry
from fused_lstm.triton import measure
from fused_lstm.triton.devices import AMD, DEVICES

found = {}
for name in NAMES:
    device = (DEVICES | AMD)[name]
    dry.take_over(device)
    measure.chain_kernel.device_caches.clear()
    x, out = (torch.zeros(1, dtype=torch.int32) for _ in range(2))
    for part in measure.parts_of(device):
        measure.chain(x, out, 5, part)
    (cache,) = measure.chain_kernel.device_caches.values()
    found[name] = [kernel.asm["ptx" if "ptx" in kernel.asm else "amdgcn"]
                   for kernel in cache[0].values()]
print(json.dumps(found))
"""
LOOPS = {
    "H100": ["fence.acq_rel.gpu", "atom.global.gpu.relaxed.add", "ld.acquire.gpu.global",
             "ld.global.cg"],
    "MI300X": ["global_atomic_add"],
}  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> dict[str, list[str]]:
    """Return the code of a barrier's parts, by card."""
    (codes,) = python(PARTS.replace("NAMES", repr([*LOOPS])))
    return codes


@pytest.mark.parametrize("name", LOOPS)
def test_a_barriers_parts_are_timed_one_by_one(name, parts):
    """Each is in its loop, and is what it is called: an addition of 0 was a load."""
    for code, part in zip(parts[name], LOOPS[name], strict=True):
        inside = False
        for line in code.splitlines():
            inside |= "Loop Header" in line or "%.lr.ph" in line
            if inside and part in line:
                break
        else:
            raise AssertionError(f"{part}: not in a loop of\n{code[:4000]}")


# --- packed rows ---


class Sizes(TorchDispatchMode):
    """The largest tensor of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, out)) if isinstance(t, Tensor)]
        self.largest.append(max((t.numel() for t in tensors), default=0))
        return out


def test_packed_rows_have_one_table_and_no_number_a_row_and_step():
    T, B = 50, 40
    lengths = torch.randint(1, T + 1, (B,)).sort(descending=True).values
    lengths[0] = T
    batch_sizes = (lengths > torch.arange(T)[:, None]).sum(1)
    x = torch.randn(int(batch_sizes.sum()), 3)
    with Sizes() as made:
        rows = packed.LaneRows(x, B, batch_sizes)
    assert max(made.largest) <= T + B + 2 + T
    assert (
        rows.ends([x[None]], last=True)[0] == x[rows.offset[lengths - 1] + torch.arange(B)]
    ).all()
    with Sizes() as again:
        packed.LaneRows(x, B, batch_sizes)
    assert again.largest == []
    batch_sizes[-1] = 0  # another value of the same tensor
    assert packed.LaneRows(x, B, batch_sizes).live == batch_sizes.sum()


class Stream(list):
    """A stream of a GPU that is not here: what it was asked for."""

    def wait_event(self, event: str) -> None:
        self.append(event)


@pytest.fixture
def table(monkeypatch):
    """Return a table whose copy to a GPU another stream may not have seen."""
    memory = SimpleNamespace(device="cuda:0", record_stream=lambda stream: stream.append("kept"))
    made = packed.Table((), 3, memory, memory, packed.Copy(memory, None, "copied", Stream([1])))
    monkeypatch.setattr(packed, "make_table", lambda *_: made)
    return made


def test_a_table_of_packed_rows_is_waited_for_on_another_stream(monkeypatch, table):
    """It was used as it was, though its copy was on its way on the stream that made it."""
    batch_sizes, x, stream = torch.tensor([2, 1]), torch.randn(3, 4), Stream()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: table.copy.stream)
    packed.LaneRows(x, 2, batch_sizes)
    assert table.copy.stream == [1]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    packed.LaneRows(x, 2, batch_sizes)
    assert stream == ["copied", "kept"]


def test_a_captured_graph_keeps_its_table_of_packed_rows(monkeypatch, table):
    """It reads the table at every replay, when batch_sizes may be gone; a capture waits for no
    event from outside, and begins with a wait for all of the GPU."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(packed, "CAPTURED", [])
    packed.LaneRows(torch.randn(3, 4), 2, torch.tensor([2, 1]))
    (kept,) = packed.CAPTURED
    assert kept is table
    assert table.copy.stream == [1]


def test_lengths_on_the_host_ask_the_device_for_nothing():
    """A tensor on `meta` has no value that a host could read."""
    lengths = torch.tensor([3, 5, 1])
    rows = of_lengths(5, 3, lengths, torch.device("meta"), False)
    assert rows.batch_sizes.tolist() == [3, 2, 2, 1, 1]
    assert rows.places.shape == (10,)


def test_a_compilation_that_takes_long_says_so(monkeypatch, capfd):
    monkeypatch.setattr(launch, "LONG", 0.05)
    with launch.said_where_it_takes_long():
        pass
    time.sleep(0.1)
    assert capfd.readouterr().err == ""
    with launch.said_where_it_takes_long():
        time.sleep(0.2)
    assert capfd.readouterr().err == launch.COMPILING + "\n"


def test_a_plan_leaves_multiprocessors_to_nccl(monkeypatch):
    monkeypatch.setattr(op.devices, "current", lambda device: DEVICES["H100"])
    shape = op.Shape(1, 1, 128, 512, 0, 512)
    found = []
    for runs in (False, True):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda runs=runs: runs)
        plan = op.plan_of(
            "steps", "backward", torch.bfloat16, torch.device("cpu"), shape, norm=0, gates=4,
            tf32=False,
        )  # fmt: skip
        found.append(plan.programs)
    assert found[1] <= 124 < found[0] <= 132


def test_a_graph_is_for_a_gpu():
    with pytest.raises(ValueError, match="example: got a tensor on cpu; expected one on a CUDA"):
        fused_lstm.graphed(fused_lstm.LSTM(3, 4), torch.zeros(1, 2, 3))
