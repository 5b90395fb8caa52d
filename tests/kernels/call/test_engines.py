"""The table of engines: what runs where, what "auto" picks, and errors that say what to do."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import fresh
import fused_lstm
from fused_lstm.call import choose
from fused_lstm.call.spec import PLAIN, Spec
from fused_lstm.operator import ops
from fused_lstm.triton.devices import DEVICES
from fused_lstm.triton.plan import plan

CPU = torch.device("cpu")
NATIVE_MISSING = fused_lstm.available_engines("cpu")["native"]


def python(code: str, interpret: str | None = None) -> fresh.Done:
    """Run code in a fresh process: whether triton is imported yet is a process's secret."""
    return fresh.run(code, TRITON_INTERPRET=interpret)[0]


def test_available_engines_names_every_engine():
    found = fused_lstm.available_engines("cpu")
    assert list(found) == ["loop", "compile", "cudnn", "triton", "native"]
    for engine in ("loop", "cudnn"):
        assert found[engine] is None
    for why in found.values():
        assert why is None or len(why) > 10


@pytest.mark.parametrize("name", ["loop", "compile", "cudnn", "auto"])
def test_every_engine_describes_itself(name):
    assert len(fused_lstm.describe_engine(name, "cpu")) > 10


def test_fuse_defaults_to_the_highest_level_except_for_the_loop():
    for name, engine in choose.ENGINES.items():
        if fused_lstm.available_engines("cpu")[name] is None:
            expected = "none" if name == "loop" else engine.fuses[-1] if engine.fuses else None
            assert choose.choose(name, None, CPU)[:2] == (name, expected)


def test_auto_picks_native_where_it_was_built():
    built = fused_lstm.available_engines("cpu")["native"] is None and sys.platform != "darwin"
    assert choose.choose("auto", None, CPU)[0] == ("native" if built else "cudnn")


def test_auto_takes_nn_lstm_on_macos(monkeypatch):
    """A team of `native` is one thread there; nn.LSTM has not every cell."""
    monkeypatch.setattr(choose.sys, "platform", "darwin")
    monkeypatch.setattr(choose.engine_module("native"), "missing", lambda device: None)
    chosen = choose.choose.__wrapped__  # which keeps no answer for other tests
    assert chosen("auto", None, CPU, PLAIN)[:2] == ("cudnn", None)
    assert chosen("auto", None, CPU, Spec(peephole=True))[:2] == ("native", "layers")
    assert chosen("auto", None, CPU, PLAIN, choose.Facts(resets=True))[:2] == ("native", "layers")
    assert chosen("auto", "steps", CPU, PLAIN)[:2] == ("native", "steps")
    assert chosen("native", None, CPU, PLAIN)[:2] == ("native", "layers")


def test_auto_says_once_that_native_is_missing():
    code = (
        "import fused_lstm, torch\n"
        "from fused_lstm import native\n"
        "from fused_lstm.call import choose\n"
        "native.load = lambda: native.NOT_BUILT\n"
        "for size in (3, 4):\n"
        "    fused_lstm.LSTM(size, 5)(torch.randn(2, 2, size))\n"
        "assert choose.choose('auto', None, torch.device('cpu'))[:2] == ('cudnn', None)\n"
        "fused_lstm.describe_engine('auto', 'cpu')\n"
        "fused_lstm.LSTM(3, 5, engine='cudnn')(torch.randn(2, 2, 3))\n"
    )
    ran = python(code)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("engine='auto' takes nn.LSTM on the CPU") == 1
    assert "pip install --no-build-isolation -e ." in ran.stderr


@pytest.mark.parametrize(
    ("engine", "fuse", "message"),
    [
        ("cuddn", None, r"engine: got 'cuddn'; expected 'auto' or one of loop, compile"),
        ("triton", "none", r"fuse: got 'none'; expected one of pointwise"),
        ("loop", "steps", r"fuse: got 'steps'; expected one of none, hoisted, or None for 'none'"),
        ("cudnn", "layers", r"fuse: got 'layers'; expected None with engine 'cudnn'"),
        ("auto", "some", r"fuse: got 'some'"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_unknown_names_are_errors_when_the_module_is_made(engine, fuse, message):
    with pytest.raises(ValueError, match=message):
        fused_lstm.LSTM(3, 4, engine=engine, fuse=fuse)


def test_unknown_device_is_an_error():
    with pytest.raises(ValueError, match="device: got 'gpu'; expected a name such as 'cpu'"):
        fused_lstm.available_engines("gpu")


def test_an_engine_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr("fused_lstm.triton.missing", lambda device: "no luck today")
    choose.choose.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="'triton' cannot run on 'cpu': no luck today"):
            fused_lstm.LSTM(3, 4, engine="triton")(torch.randn(2, 2, 3))
    finally:
        choose.choose.cache_clear()


IS_LOADED = """
def loaded():
    maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
    library = hasattr(torch.ops.fused_lstm_native, "isa") or "fused_lstm/native/_native" in maps
    return {"triton", "torch._dynamo"} & set(sys.modules) | ({"native"} if library else set())
"""


def test_importing_fused_lstm_loads_no_more_than_the_library():
    """Which defines its operators: without it a saved program would not know them."""
    code = (
        f"import torch, fused_lstm, sys\n{IS_LOADED}"
        "assert fused_lstm.release_memory() == 0\n"
        "fused_lstm.Dropout(0.5), fused_lstm.LSTM(3, 4)\n"
        "assert loaded() <= {'native'}, loaded()\n"
    )
    ran = python(code)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(NATIVE_MISSING is not None, reason=f"native: {NATIVE_MISSING}")
@pytest.mark.parametrize(
    "use",
    [
        "fused_lstm.LSTM(3, 4)(torch.ones(2, 2, 3))",
        pytest.param("fused_lstm.dropout(torch.ones(3))", marks=pytest.mark.slow),
        pytest.param(
            "fused_lstm.linear_cross_entropy(torch.ones(2, 3), torch.ones(4, 3), "
            "torch.tensor([0, 1]))",
            marks=pytest.mark.slow,
        ),
        "torch.ops.fused_lstm_native.cell(torch.ones(2, 8), torch.ones(2, 2))",
        pytest.param("fused_lstm.describe_engine('native')", marks=pytest.mark.slow),
    ],
    ids=["LSTM", "dropout", "loss", "operator", "describe"],
)
def test_the_first_use_loads_native(use):
    ran = python(
        f"import torch, fused_lstm, sys\n{IS_LOADED}{use}\nassert loaded() == {{'native'}}"
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", ["native", "triton"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
def test_a_saved_trace_loads_its_engine(name, tmp_path):
    if (why := fused_lstm.available_engines("cpu")[name]) is not None:
        pytest.skip(f"{name}: {why}")
    module, x = fused_lstm.LSTM(3, 4, engine=name), torch.randn(3, 2, 3)
    file = str(tmp_path / "trace.pt")
    torch.jit.save(torch.jit.trace(module, x), file)
    torch.save((x, module(x)[0].detach()), file + ".values")
    code = (
        "import torch, fused_lstm\n"
        f"traced, (x, y) = torch.jit.load({file!r}), torch.load({file + '.values'!r})\n"
        "with torch.inference_mode():\n"
        "    torch.testing.assert_close(traced(x)[0], y)\n"
    )
    ran = python(code)
    assert ran.returncode == 0, ran.stderr


def test_an_operator_whose_engine_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr("fused_lstm.native.missing", lambda device: "no luck today")
    kernel = ops._first_use("native", "cell")
    with pytest.raises(RuntimeError, match="fused_lstm_native::cell cannot run on 'cpu': no luck"):
        kernel(torch.ones(2, 8), torch.ones(2, 2))


@pytest.mark.parametrize("engine", ["triton", "native"])
def test_an_operator_takes_dense_tensors_alone(engine):
    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    gates, c = torch.ones(2, 8), torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"cell: got .*sparse_coo.*; expected"):
        getattr(torch.ops, f"fused_lstm_{engine}").cell(gates.to_sparse(), c)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_triton_says_that_there_is_none():
    why = fused_lstm.available_engines("cuda")["triton"]
    assert "GPU" in why
    assert "TRITON_INTERPRET" not in why


RUN_TRITON = "fused_lstm.LSTM(3, 4, engine='triton', fuse='pointwise')(torch.randn(2, 2, 3))"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU there is no interpreter")
def test_the_interpreter_is_chosen_and_announced_once():
    ran = python(f"import torch, fused_lstm\n{RUN_TRITON}\n{RUN_TRITON}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("Triton's interpreter") == 1
    assert len(ran.stderr.splitlines()) == 1, ran.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU there is no interpreter")
def test_triton_imported_too_early_is_explained():
    ran = python(f"import triton, torch, fused_lstm\n{RUN_TRITON}")
    assert "start Python with TRITON_INTERPRET=1" in ran.stderr.splitlines()[-1]
    ran = python(f"import triton, torch, fused_lstm\n{RUN_TRITON}", "1")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU there is no interpreter")
@pytest.mark.parametrize(
    ("of_triton", "of_numpy", "works"),
    [("3.6.0", "2.4.0", False), ("3.6.0", "2.3.5", True), ("3.7.0", "2.4.0", True)],
)
def test_an_interpreter_too_old_for_numpy_is_explained(of_triton, of_numpy, works, monkeypatch):
    import numpy
    import triton

    monkeypatch.setattr(triton, "__version__", of_triton)
    monkeypatch.setattr(numpy, "__version__", of_numpy)
    why = fused_lstm.available_engines("cpu")["triton"]
    assert works or "pip install 'numpy<2.4' or a newer triton" in why
    assert (why is None) == works


def test_torch_compile_before_triton_does_no_harm():
    compiled = "torch.compile(lambda x: x @ x)(torch.ones(2, 2))"  # takes no C++ compiler
    code = f"import torch, fused_lstm\n{compiled}\n{RUN_TRITON}"
    ran = python(code)
    assert ran.returncode == 0, ran.stderr


GPU = torch.device("cuda")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if triton ran on a GPU; nothing is run."""
    monkeypatch.setattr("fused_lstm.triton.missing", lambda device: None)
    choose._warn_that_no_gpu_has_run_it.cache_clear()


def test_auto_on_a_gpu_takes_what_is_known_to_work(on_a_gpu, recwarn):
    chosen = choose.choose.__wrapped__
    assert chosen("auto", None, GPU, PLAIN)[:2] == ("cudnn", None)
    assert chosen("auto", None, GPU, Spec("gru"))[:2] == ("cudnn", None)
    assert chosen("auto", "steps", GPU, PLAIN)[:2] == ("triton", "steps")  # a level is asked for
    assert chosen("triton", None, GPU, PLAIN)[:2] == ("triton", "layers")
    assert not recwarn.list


def test_auto_on_a_gpu_says_once_that_no_gpu_has_run_what_it_takes(on_a_gpu):
    chosen = choose.choose.__wrapped__
    with pytest.warns(UserWarning, match="no GPU has run these kernels yet") as told:
        both = [
            chosen("auto", None, GPU, Spec(layer_norm=True)),
            chosen("auto", None, GPU, PLAIN, choose.Facts(states=True)),
        ]
    assert [choice[:2] for choice in both] == [("triton", "layers")] * 2
    assert len(told) == 1


def test_auto_on_a_small_gpu_takes_the_loop_for_what_it_cannot_normalize(monkeypatch):
    """The kernels have to run at once for it: 16 multiprocessors hold 1,024 units."""
    small = replace(DEVICES["A100"], sms=16)
    monkeypatch.setattr("fused_lstm.triton.missing", lambda device: None)
    monkeypatch.setattr("fused_lstm.triton.op.card_of", lambda device: small)
    normed = Spec(layer_norm=True)
    for H, too_wide in ((512, False), (1024, False), (1100, True), (4096, True)):
        assert choose.is_too_wide("auto", None, GPU, normed, H) == too_wide
        planned = partial(plan, "steps", hidden=H, batch=8, layers=1, dtype="bf16", norm=2)
        with pytest.raises(ValueError, match="layer_norm") if too_wide else nullcontext():
            planned(direction="forward", device=small)
            planned(direction="backward", device=small)
    assert not choose.is_too_wide("triton", None, GPU, normed, 4096)  # asked for by name
    assert not choose.is_too_wide("auto", None, GPU, PLAIN, 4096)
    chosen = choose.choose.__wrapped__
    assert chosen("auto", None, GPU, normed, choose.Facts(too_wide=True))[:2] == ("loop", "none")


def test_auto_without_triton_takes_the_loop_for_what_cudnn_does_not_have(monkeypatch):
    monkeypatch.setattr("fused_lstm.triton.missing", lambda device: "no luck today")
    assert choose.choose.__wrapped__("auto", None, GPU, Spec(layer_norm=True))[:2] == (
        "loop",
        "none",
    )


def test_auto_on_a_gpu_is_chosen_anew_with_the_first_results_of_one():
    """Then triton's kernels have run, and `choose` need not warn."""
    results = Path(__file__).parents[3] / "bench" / "results"
    assert not any(results.glob("gpu*")), "choose again what engine='auto' takes on a GPU"
