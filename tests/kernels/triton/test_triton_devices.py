"""Right on every card: what a plan is told of a GPU, which GPU is current, and who is too old."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

import fused_lstm
from fused_lstm import triton as engine
from fused_lstm.call import choose
from fused_lstm.triton import launch
from fused_lstm.triton.devices import AMD, DEVICES, described
from fused_lstm.triton.plan import plan


def driver(name: str, capability: tuple[int, int], sms: int, smem_kib: int, **others):
    """What torch.cuda.get_device_properties would say."""
    major, minor = capability
    return SimpleNamespace(
        name=name, major=major, minor=minor, multi_processor_count=sms, L2_cache_size=50 << 20,
        shared_memory_per_block_optin=smem_kib * 1024, **others,
    )  # fmt: skip


def test_a_card_of_the_table_by_its_exact_name():
    found = described(driver("NVIDIA H100 80GB HBM3", (9, 0), 132, 227))
    assert (found.tflops, found.hbm) == (DEVICES["H100"].tflops, DEVICES["H100"].hbm)
    assert described(driver("NVIDIA L4", (8, 9), 58, 99)).tflops == DEVICES["L4"].tflops


def test_another_card_as_its_driver_describes_it():
    """An L40S is not an L4, whose name its own begins with: NVIDIA gives it 362 TFLOPS."""
    memory = {"memory_clock_rate": 9_001_000, "memory_bus_width": 384}
    found = described(driver("NVIDIA L40S", (8, 9), 142, 99, clock_rate=2_520_000, **memory))
    assert (found.sms, found.clock, found.smem) == (142, 2.52, 99 * 1024)
    assert found.tflops["half"] == pytest.approx(362, rel=0.02)
    assert found.hbm == pytest.approx(864, rel=0.01)
    assert found.l2_rate > 2 * DEVICES["L4"].l2_rate
    laptop = described(driver("NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), 76, 99))
    assert laptop.tflops["half"] < DEVICES["RTX 4090"].tflops["half"]


@pytest.mark.parametrize(
    ("capability", "like", "wgmma", "tcgen05"),
    [
        ((8, 0), "A100", False, False),
        ((8, 6), "L4", False, False),
        ((9, 0), "H100", True, False),
        ((10, 0), "B200", False, True),
        ((10, 3), "B200", False, True),
        ((11, 0), "B200", False, False),
        ((12, 0), "RTX 5090", False, False),
        ((12, 1), "RTX 5090", False, False),
    ],
)
def test_what_multiplies(capability, like, wgmma, tcgen05):
    near = DEVICES[like]
    found = described(driver("NVIDIA Some Card", capability, near.sms, near.smem // 1024))
    assert (found.wgmma, found.tcgen05) == (wgmma, tcgen05)
    assert found.tflops == pytest.approx(near.tflops)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("kind", "hidden"), [("steps", 650), ("steps", 1500), ("layers", 650)])
def test_an_rtx_5090_is_planned_as_ampere_is(kind, hidden, direction):
    """sm_120 multiplies by warps, from registers, with 99 KiB: all of an RTX 4090 but its count."""
    shape = {"hidden": hidden, "batch": 20, "layers": 2, "dtype": "bf16", "in_parts": False}
    new = plan(kind, direction, device=DEVICES["RTX 5090"], **shape)
    old = plan(kind, direction, device=DEVICES["RTX 4090"], **shape)
    assert new.hold
    assert new.warps == 8
    if new.units == old.units:
        names = "resident", "resident_ih", "block_k", "ahead", "stages", "smem"
        assert [getattr(new, n) for n in names] == [getattr(old, n) for n in names]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_rtx_5090_holds_weights_in_registers(direction):
    """Its shared memory has room for 3 of the 6 tiles of H=650."""
    shape = {"hidden": 650, "batch": 20, "layers": 1, "dtype": "bf16"}
    found = plan("steps", direction, device=DEVICES["RTX 5090"], **shape)
    assert (found.k_parts, found.resident_fraction) == (8, 1)
    before = plan("steps", direction, device=DEVICES["RTX 5090"], **shape, in_parts=False)
    assert before.resident_fraction <= 0.5


@pytest.fixture
def turing(monkeypatch):
    """A Tesla T4 as cuda:0."""
    t4 = driver("Tesla T4", (7, 5), 40, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: t4)
    choose.choose.cache_clear()
    yield
    choose.choose.cache_clear()


@pytest.mark.usefixtures("turing")
def test_before_ampere_auto_takes_cudnn_and_triton_says_why():
    device = torch.device("cuda")
    assert choose.choose("auto", None, device)[0] == "cudnn"
    why = fused_lstm.available_engines("cuda")["triton"]
    assert why is not None
    assert "need compute capability 8.0 (Ampere), and Tesla T4 has 7.5" in why
    assert "engine='cudnn'" in why
    with pytest.raises(RuntimeError, match=r"engine 'triton' cannot run .* Tesla T4 has 7\.5"):
        choose.choose("triton", None, device)


@pytest.mark.parametrize(
    ("module", "version", "why"),
    [
        ("torch", "2.10.1+cu128", "need torch 2.11, and 2.10.1+cu128 is installed"),
        ("triton", "3.5.1", "need triton 3.6, and 3.5.1 is installed; pip install 'triton>=3.6'"),
    ],
)
def test_a_library_that_is_too_old_is_named(module, version, why, monkeypatch):
    monkeypatch.setattr(pytest.importorskip(module), "__version__", version)
    assert why in engine.missing(torch.device("cpu"))


def test_from_ampere_on_nobody_is_too_old():
    assert engine.unfit(driver("NVIDIA A100-SXM4-40GB", (8, 0), 108, 163)) is None
    assert engine.unfit(driver("NVIDIA Thor", (11, 0), 20, 227)) is None


def test_amds_by_their_architecture():
    """PyTorch calls a ROCm device cuda too, and gives NVIDIA's a gcnArchName that is none."""
    mi300 = driver("AMD Instinct MI300X", (9, 4), 304, 64, gcnArchName="gfx942:sramecc+:xnack-")
    found = described(mi300)
    assert (found.gfx, found.wave, found.has_tf32) == ("gfx942", 64, True)
    assert not found.asynchronous
    assert engine.unfit(mi300) is None
    old = driver("AMD Radeon RX 6800", (10, 3), 30, 64, gcnArchName="gfx1030")
    assert "not for gfx1030" in engine.unfit(old)
    assert described(driver("NVIDIA L4", (8, 9), 58, 99, gcnArchName="NVIDIA L4")).gfx == ""
    plans = [plan("steps", "forward", hidden=650, batch=20, layers=1, dtype=dtype, device=device)
             for device in AMD.values() for dtype in ("bf16", "fp32")]  # fmt: skip
    assert all(made.amd for made in plans)
    assert [made.warps for made in plans] == [4] * 6 + [8] * 4
    assert [made.precision for made in plans].count("tf32") == 2  # both of gfx942


def test_an_operators_gpu_is_the_current_one(monkeypatch):
    """Triton launches on the current GPU: it is the tensors', for as long as an operator runs."""
    current = []

    @contextmanager
    def device(of):
        current.append(of)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    seen = []

    def operator(dy, x):
        seen.append(list(current))

    x = torch.empty(2, device="meta")  # any device that is not the CPU
    launch.on_their_device(operator)(None, x)
    launch.on_their_device(operator)(None, torch.empty(2))
    assert seen == [[x.device], []]
    assert current == []


def test_a_grid_that_does_not_fit_says_why(monkeypatch):
    """Under MPS or in a green context a process has fewer multiprocessors than the GPU reports."""
    monkeypatch.setattr(torch.cuda, "device", lambda of: nullcontext())

    def operator(x, message):
        raise RuntimeError(f"Triton Error [CUDA]: {message}")

    guarded = launch.on_their_device(operator)
    with pytest.raises(RuntimeError, match=r"launch: got fewer multiprocessors .*MPS.*fuse='hoi"):
        guarded(torch.empty(2, device="meta"), "too many blocks in cooperative launch")
    with pytest.raises(RuntimeError, match="misaligned address"):
        guarded(torch.empty(2, device="meta"), "misaligned address")


def test_all_operators_are_guarded():
    fused_lstm.LSTM(1, 1, engine="triton", fuse="steps")(torch.zeros(1, 1, 1))
    from fused_lstm.triton import operators

    assert operators.KERNELS.keys() == operators.GUARDED.keys()
    for name, kernel in operators.KERNELS.items():
        assert operators.GUARDED[name].__wrapped__ is kernel
