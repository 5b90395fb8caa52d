"""The kernels as AMD's compiler makes them: ahead of time, since no such GPU has run them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import fresh
from fused_lstm.tools import amdgcn
from fused_lstm.triton import launch
from fused_lstm.triton.devices import AMD, DEVICES
from fused_lstm.triton.launch import specialized
from fused_lstm.triton.plan import plan
from test_inspect import run


@pytest.mark.slow  # `make inspect` runs it
@pytest.mark.parametrize("cell", [(), ("--written", "sum_cells:norm_of_c")], ids=["lstm", "sums"])
def test_they_compile_for_every_card(cell, tmp_path):
    """Forward and backward, persistent: with a barrier, without PTX, on the matrix units."""
    path, cards = tmp_path / "kernels.json", [*AMD]
    of = ("--device", *cards, "--hidden", "200", "--fuse", "steps", "--json", str(path))
    said = run(*of, *cell)
    reports = json.loads(path.read_text())
    assert [(r["device"], r["plan"]["direction"]) for r in reports] == [
        (card, direction) for card in cards for direction in ("forward", "backward")
    ]
    for report in reports:
        assert report["plan"]["mode"] == "persistent"
        assert report["order"] == []
        assert report["matrix"] > 0
        assert report["shared_memory"] <= report["shared_memory_limit"]
        if report["device"] != "7900 XTX":  # gfx1100 spills a few
            assert report["spills"] == 0
    assert "matrix instructions" in said


# An arrive as an MI300X has it, and as faults leave it.
STORE, WAIT = "global_store_dword v[6:7], v10, off\n", "s_waitcnt vmcnt(0)\nv_mov"
ARRIVE = f"""
{STORE}.LBB0_33:                               ;   in Loop: Header=BB0_28 Depth=1
s_or_b64 exec, exec, s[2:3]
;;#ASMSTART
{WAIT}_b32 v6, v7
;;#ASMEND
s_barrier
s_cbranch_execz .LBB0_36
buffer_wbl2 sc1
s_waitcnt vmcnt(0)
global_atomic_add v19, v6, s[18:19]
"""
FAULTS = {
    "no wait": {WAIT: "v_mov"},
    "of loads alone": {WAIT: "s_waitcnt lgkmcnt(0)\nv_mov"},
    "some on their way": {WAIT: "s_waitcnt vmcnt(1)\nv_mov"},
    "a store after it": {"s_barrier\n": f"{STORE}s_barrier\n"},
    "in some waves": {WAIT: "v_mov", "s_or_b64": "s_waitcnt vmcnt(0)\n.LBB0_34:\ns_or_b64"},
}


def test_each_wave_waits_for_its_own_stores():
    assert amdgcn.order(ARRIVE, "gfx942") == []
    assert amdgcn.order("s_endpgm", "gfx942") == ["no program arrives"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wave_that_does_not_wait_is_found(fault):
    """`vmcnt` counts loads and stores on gfx9, and loads alone on gfx11."""
    text = ARRIVE
    for old, new in FAULTS[fault].items():
        assert old in text
        text = text.replace(old, new)
    (problem,) = amdgcn.order(text, "gfx942")
    assert "stores on their way" in problem
    assert amdgcn.order(ARRIVE, "gfx1100") != []


CODE = """
import json
from fused_lstm.tools import inspect
from fused_lstm.triton.devices import by_gfx
from fused_lstm.triton.plan import plan

found = {}
for direction in ("forward", "backward"):
    chosen = plan("steps", direction, hidden=64, batch=16, layers=1, dtype="bf16",
                  device=by_gfx(GFX))
    found[direction] = inspect.inspect_amd(chosen, by_gfx(GFX))["order"]
print(json.dumps(found))
"""


@pytest.mark.slow  # of gfx942 and gfx1100 the dry run below has the same
@pytest.mark.parametrize("gfx", ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
def test_stores_of_all_waves_are_there_before_a_program_arrives(gfx):
    """In the compiled code; a release publishes those of one wave."""
    found = fresh.python(CODE.replace("GFX", repr(gfx)), TRITON_INTERPRET="0")
    assert json.loads(found) == {"forward": [], "backward": []}


DRY = """
import json
import host_calls
import torch
from bench.gpu import dry
from fused_lstm.tools import amdgcn
from fused_lstm.triton import backward, forward, op
from fused_lstm.triton.devices import AMD
from triton.runtime import driver

x, h0, weights = dry.zeros((2, 16, 64, 64, 1), torch.bfloat16)
call = x, h0, h0, weights, 0.0, None, "steps"
kernels = forward.lstm_forward_kernel, backward.lstm_backward_kernel
said = {}
for name in NAMES:
    dry.take_over(AMD[name])
    dry.LAUNCHES.clear()
    host_calls.forget()
    with torch.no_grad():
        y, _, _, h, c, gates = op.lstm(*call, True)
        op.lstm_backward(y, None, None, *call, y, h, c, gates, True)
    found = [launch["kernel"] for launch in dry.LAUNCHES]
    caches = [cache[0] for kernel in kernels for cache in kernel.device_caches.values()]
    codes = [compiled.asm["amdgcn"] for cache in caches for compiled in cache.values()]
    orders = [amdgcn.order(code, AMD[name].gfx) for code in codes]
    said[name] = found, driver.active.utils.get_device_properties(0)["warpSize"], orders
print(json.dumps(said))
"""


def test_a_dry_run_compiles_all_kernels_of_an_amd_gpu():
    """Each call's first kernel was loaded as if it were NVIDIA's, and no other was compiled.

    In their code stores of all waves are there before a program arrives.
    """
    names = ["MI300X", "7900 XTX"]
    found = json.loads(fresh.python(DRY.replace("NAMES", repr(names)), TRITON_INTERPRET="0"))
    both = ["lstm_forward_kernel", "lstm_backward_kernel"]
    assert found == {name: [both, AMD[name].wave, [[], []]] for name in names}


@pytest.mark.parametrize("card", ["MI300X", "H100"])
def test_a_launch_asks_whether_tensors_are_below_2_gb(card, monkeypatch):
    """On an AMD GPU each size has a kernel of its own; the launch itself is not made here."""
    device = (AMD | DEVICES)[card]
    chosen = plan("steps", "forward", hidden=64, batch=16, layers=1, dtype="bf16", device=device)
    compiled = SimpleNamespace(
        n_spills=0, run=lambda *_: None, function=1, packed_metadata=(), launch_metadata=None
    )
    active = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: 0)
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(launch, "driver", SimpleNamespace(active=active))
    monkeypatch.setattr(launch.Launch, "_compiled", lambda *_: compiled)
    one = launch.Launch(chosen, None, lambda keep_loop: None)
    for size in (64, 2**31, 64):
        x = torch.empty(size, device="meta", dtype=torch.uint8)
        one(launch.Arguments([x], [0]))
    assert len(one.compiled) == (2 if card == "MI300X" else 1)


@pytest.mark.parametrize("amd", [False, True])
def test_a_kernel_of_small_tensors_is_not_launched_on_large_ones(amd):
    """Its offsets have 32 bits there: what lies further on would be read as 0, in silence."""
    backends = pytest.importorskip("triton.backends").backends
    small, large = (torch.empty(n, device="meta", dtype=torch.uint8) for n in (64, 2**31))
    differ = specialized((small,), amd) != specialized((large,), amd)
    backend = backends["amd" if amd else "nvidia"].compiler
    asks = backend.get_tensor_specialization
    assert differ == amd == (asks(small, align=True) != asks(large, align=True))
