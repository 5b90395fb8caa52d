"""Many rows: where engine="triton" runs a plain LSTM at "hoisted" unless a level is asked for."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import fused_lstm
from bench import zoo
from fused_lstm.call import choose, run
from fused_lstm.call.spec import PLAIN, Spec
from fused_lstm.triton import choice, op, tuned
from fused_lstm.triton.devices import AMD, DEVICES, INTERPRETER

GPU = torch.device("cuda")
CARDS = DEVICES | AMD


def why(card, dtype, H, B, layers=1, directions=1):
    """Return why a shape's steps are faster at "hoisted"."""
    shape = {"hidden": H, "batch": B, "layers": layers, "directions": directions, "dtype": dtype}
    plans = [choice.choose(name, device=card, **shape) for name in ("forward", "backward")]
    return choice.why_hoisted(plans, card)


@pytest.mark.parametrize(
    ("card", "dtype", "H", "below", "border"),
    [
        ("H100", "bf16", 256, 6144, 6400),
        ("H100", "bf16", 512, 2560, 2816),
        ("H100", "bf16", 768, 1024, 1280),
        ("H100", "bf16", 1024, 1023, 1024),
        ("H100", "fp32", 512, 4352, 4608),
        ("A100", "bf16", 512, 1792, 2048),
        ("A100", "fp16", 1500, 1023, 1024),
        ("L4", "fp32", 512, 1280, 1536),
        ("B200", "bf16", 1024, 1024, 1280),
        ("MI300X", "bf16", 1024, 1792, 2048),
    ],
)
def test_border_by_arithmetic(card, dtype, H, below, border):
    assert why(CARDS[card], dtype, H, below) is None
    reason = why(CARDS[card], dtype, H, border)
    assert f"a step of a layer, {border} rows forwards and backwards" in reason
    assert "by arithmetic" in reason


@pytest.mark.parametrize(
    ("card", "H", "B", "layers", "directions", "hoisted"),
    [
        ("H100", 255, 16384, 1, 1, False),
        ("RTX 4090", 1024, 16384, 1, 1, False),  # its products take as long either way
        ("H100", 1024, 1024, 2, 1, True),
        ("H100", 1024, 4096, 2, 2, True),  # both directions are one launch
        ("H100", 1500, 1024, 1, 1, True),
        ("H100", 1500, 1024, 2, 1, False),  # a wave moves less
        ("B200", 1500, 1024, 2, 1, True),
    ],
)
def test_shapes_of_half_precision(card, H, B, layers, directions, hoisted):
    assert (why(CARDS[card], "bf16", H, B, layers, directions) is not None) == hoisted


def test_the_interpreter_has_no_such_border():
    assert why(INTERPRETER, "fp32", 512, 4096) is None


def test_what_python_takes_to_begin_launches_counts():
    """By the GPU's time alone fewer rows would do."""
    shape = {"hidden": 768, "batch": 1024, "layers": 1, "dtype": "bf16", "device": DEVICES["H100"]}
    plans = [choice.choose(name, **shape) for name in ("forward", "backward")]
    apart = sum(choice.hoisted_us(plan, DEVICES["H100"]) for plan in plans)
    assert apart + 6 * choice.LAUNCH_US < sum(choice.estimate(p, DEVICES["H100"]) for p in plans)
    assert choice.why_hoisted(plans, DEVICES["H100"]) is None


# --- a call ---


@pytest.fixture
def h100(monkeypatch):
    """Make triton believe that it runs on an H100; nothing is run."""
    monkeypatch.setattr("fused_lstm.triton.missing", lambda device: None)
    monkeypatch.setattr(op, "card_of", lambda device: DEVICES["H100"])


def call_of(device=GPU, dtype=torch.bfloat16, L=1, B=2048, H=1024):
    """Return what is asked of a call's tensors, which need not be there."""
    x = SimpleNamespace(device=device, dtype=dtype, is_floating_point=lambda: True)
    return SimpleNamespace(x=x, h0=SimpleNamespace(dim=lambda: 3, shape=torch.Size((L, B, H))))


def test_a_call_of_many_rows(h100):
    reason = run.why_hoisted(PLAIN, call_of())
    assert "2048 rows" in reason
    chosen = choose.choose.__wrapped__("triton", None, GPU, PLAIN, choose.Facts(hoisted=reason))
    assert chosen == ("triton", "hoisted", reason)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (Spec(projection=True), {}),
        (Spec(num_heads=4), {}),
        (PLAIN, {"B": 512}),
        (PLAIN, {"H": 128}),
        (PLAIN, {"device": torch.device("cpu")}),
        (PLAIN, {"dtype": torch.int64}),
    ],
)
def test_calls_that_stay_in_one_launch(h100, spec, shape):
    assert run.why_hoisted(spec, call_of(**shape)) is None


def test_a_call_under_torch_func_stays(h100):
    found = []
    torch.func.vmap(lambda x: found.append(run.why_hoisted(PLAIN, call_of())) or x)(torch.zeros(2))
    assert found == [None]


def test_autocast_counts(h100, monkeypatch):
    """Float32 alone would depend on torch.backends."""
    monkeypatch.setattr(run, "autocast_dtype", lambda x: torch.bfloat16)
    reason = run.why_hoisted(PLAIN, call_of(dtype=torch.float32))
    assert reason == run.why_hoisted(PLAIN, call_of()) is not None


@pytest.mark.parametrize("matmul", ["ieee", "tf32"])
@pytest.mark.parametrize("rnn", ["ieee", "tf32"])
def test_float32_keeps_the_precision_of_an_lstm(h100, monkeypatch, matmul, rnn):
    """Products of "hoisted" are torch's own, which follow torch.backends.cuda.matmul."""
    before = torch.backends.cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cudnn.rnn.fp32_precision = rnn
        torch.backends.cuda.matmul.fp32_precision = matmul
        reason = run.why_hoisted(PLAIN, call_of(dtype=torch.float32))
    finally:
        torch.backends.cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before
    assert (reason is not None) == (rnn == matmul == "tf32")


def test_a_measured_card_and_timed_plans_count(h100, monkeypatch):
    """Products take as long either way where L2 is fast enough; a timed shape stays as timed."""
    assert run.why_hoisted(PLAIN, call_of(B=1280)) is not None
    fast = replace(DEVICES["H100"], l2_rate=1e5)
    monkeypatch.setattr(op, "card_of", lambda device: fast)
    assert run.why_hoisted(PLAIN, call_of(B=1280)) is None
    monkeypatch.setattr(op, "card_of", lambda device: DEVICES["H100"])
    timed = f"{tuned.TIMED}: 80.00 us a step"
    monkeypatch.setattr(tuned, "of", lambda plan, card: replace(plan, why=(timed,)))
    assert run.why_hoisted(PLAIN, call_of(B=1280)) is None


# --- which calls ask ---


@pytest.fixture
def levels(monkeypatch):
    """The levels of calls, all of which would be faster at "hoisted"."""
    found, triton = [], choose.engine_module("triton")
    monkeypatch.setattr(run, "why_hoisted", lambda spec, call: "because")
    monkeypatch.setattr(run, "ROUTES", {})
    real = triton.run
    monkeypatch.setattr(triton, "run", lambda call: found.append(call.spec.level) or real(call))
    return found


def test_plain_calls_ask(levels):
    """Values are those of the level; torch's own cell is all that it has."""
    torch.manual_seed(0)
    x, lstm = torch.randn(4, 3, 5), fused_lstm.LSTM(5, 6, num_layers=2, engine="triton")
    y, (h_n, c_n) = lstm(x)
    lstm.fuse = "hoisted"
    wanted, (h_wanted, c_wanted) = lstm(x)
    assert levels == ["hoisted"] * 2
    for found, expected in ((y, wanted), (h_n, h_wanted), (c_n, c_wanted)):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


MODULES = {
    "steps": lambda: fused_lstm.LSTM(5, 6, engine="triton", fuse="steps"),
    "GRU": lambda: fused_lstm.GRU(5, 6, engine="triton"),
    "RNN": lambda: fused_lstm.RNN(5, 6, engine="triton"),
    "layer_norm": lambda: fused_lstm.LSTM(5, 6, engine="triton", layer_norm=True),
    "peephole": lambda: fused_lstm.LSTM(5, 6, engine="triton", peephole=True),
    "coupled": lambda: fused_lstm.LSTM(5, 6, engine="triton", coupled=True),
    "recompute": lambda: fused_lstm.LSTM(5, 6, engine="triton", recompute=2),
    "own cell": lambda: fused_lstm.Recurrent(zoo.gru_reset_before, 5, 6, engine="triton"),
}
ROWS = {
    "lengths": {"lengths": torch.tensor([4, 2, 1])},
    "resets": {"resets": torch.zeros(4, 3, dtype=torch.bool)},
    "return_states": {"return_states": True},
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_do_not_ask(name, levels):
    with torch.no_grad():
        MODULES[name]()(torch.randn(4, 3, 5))
    assert set(levels) == {"steps" if name == "steps" else "layers"}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_do_not_ask(name, levels):
    with torch.no_grad():
        fused_lstm.LSTM(5, 6, engine="triton")(torch.randn(4, 3, 5), **ROWS[name])
    assert levels == ["layers"]


def test_packed_rows_do_not_ask(levels):
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(4, 5), torch.randn(2, 5)])
    with torch.no_grad():
        fused_lstm.LSTM(5, 6, engine="triton")(packed)
    assert levels == ["layers"]
