"""What the native engine decides before a call runs: order, parts, buffers."""

from __future__ import annotations

import re
import time

import pytest
import torch
from torch import nn

import fused_lstm
from bench import kernels
from cases import Shape
from fused_lstm import native
from terms import UNITS

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    kernels.missing() is not None, reason=f"native: {kernels.missing()}"
)


UNIT = UNITS[0] if UNITS else ""  # AMX, or it emulated


def plan(steps=20, batch=20, inputs=200, hidden=200, layers=2, fuse="layers", save=True, **options):
    options = {"threads": 2} | options
    return kernels.ops().plan(steps, batch, inputs, hidden, layers, fuse, save, **options)


def kib(text: str, which: str) -> int:
    """What the buffers of a pass take together."""
    return int(re.search(rf"^{which}: .* (\d+) KiB$", text, re.MULTILINE)[1])


@pytest.mark.parametrize(
    ("order", "change"),
    [
        ("a wavefront", {}),
        ("a wavefront", {"threads": 3, "layers": 3}),
        ("a wavefront", {"batch": 3, "hidden": 64, "inputs": 64}),
        ("a wavefront", {"hidden": 150, "inputs": 150, "dtype": torch.bfloat16, "isa": UNIT}),
        ("in turns", {"dtype": torch.float64}),
        ("in turns", {"fuse": "steps"}),
        ("in turns", {"threads": 1}),
        ("in turns", {"threads": 4}),
        ("in turns", {"layers": 3}),
        ("in turns", {"hidden": 111}),
        ("in turns", {"inputs": 114}),
        ("in turns", {"batch": 3}),
        ("in turns", {"even": False}),
        ("in turns", {"projected": 50}),
        ("in turns", {"directions": 2}),
    ],
    ids=str,
)
def test_layers_are_a_wavefront_where_a_step_is_small(order, change):
    sizes = {"inputs": 110, "hidden": 110}
    for save in (True, False):
        assert f"layers: {order};" in plan(**sizes | {"save": save} | change)


@pytest.mark.parametrize(
    ("order", "change"),
    [
        ("a wavefront", {}),
        ("a wavefront", {"cell": "gru", "batch": 2, "hidden": 64, "inputs": 64}),
        ("a short call", {"cell": "rnn_tanh"}),  # which has no tiles of a layer
        ("a short call", {"batch": 1, "hidden": 64, "inputs": 64}),
        ("a short call", {"hidden": 111}),
        ("a short call", {"layers": 3}),
        ("a short call on one thread", {"batch": 2, "hidden": 16, "inputs": 16}),
    ],
    ids=str,
)
def test_prepared_layers_are_a_wavefront_where_they_have_a_layers_tiles(order, change):
    if "avx512" not in native.OPS.isa_names():
        pytest.skip("this CPU has no AVX-512")
    sizes = {"inputs": 110, "hidden": 110, "isa": "avx512", "prepared": True}
    assert f"layers: {order};" in plan(**sizes | change, save=False)


@pytest.mark.parametrize(
    ("lanes", "change"),
    [
        (2, {}),
        (2, {"threads": 4}),
        (1, {"threads": 3}),
        (1, {"threads": 1}),
        (1, {"fuse": "steps"}),
        (1, {"directions": 1}),
    ],
    ids=str,
)
def test_directions_share_the_team_where_it_has_two_halves(lanes, change):
    assert f"lanes abreast: {lanes};" in plan(**{"directions": 2} | change)


@pytest.mark.parametrize(
    ("workers", "change"),
    [
        (1, {"cell": "gru", "hidden": 64, "inputs": 64}),
        (1, {"cell": "rnn_tanh", "hidden": 127, "inputs": 64}),
        (2, {"cell": "rnn_tanh", "hidden": 128, "inputs": 64}),
        (2, {"cell": "rnn_tanh", "hidden": 64, "inputs": 64, "batch": 4}),
        (2, {"hidden": 64, "inputs": 64}),
        (2, {"hidden": 16, "inputs": 256}),
        (2, {"hidden": 16, "inputs": 16, "directions": 2}),
        (1, {"hidden": 64, "inputs": 64, "dtype": torch.bfloat16, "isa": UNIT}),
        (2, {"hidden": 64, "inputs": 64, "meeting": 100}),
        (1, {"hidden": 64, "inputs": 64, "meeting": 400}),
        (1, {"hidden": 128, "inputs": 128, "meeting": 5_000_000}),
        (2, {"hidden": 192, "inputs": 192, "meeting": 5_000_000}),
        (1, {"cell": "gru", "hidden": 32, "inputs": 32, "meeting": 100}),
    ],
    ids=str,
)
def test_a_small_step_is_one_workers(workers, change):
    """Its two would wait for each other longer than they work, if another process has a core."""
    for save in (True, False):
        text = plan(**{"batch": 1, "layers": 1} | change, save=save)
        assert f"workers: {workers};" in text


@pytest.mark.skipif(native.most_threads() < 2, reason="a quota grants one core")
@pytest.mark.parametrize("prepared", [False, True])
def test_a_team_measures_how_long_it_takes_to_meet(prepared):
    """Nobody knows it before, nor of a team that has more workers."""
    torch.set_num_threads(2)
    layer, x = fused_lstm.LSTM(8, 192, engine="native"), torch.randn(3, 20, 8)
    if prepared:  # a team divides a prepared layer's steps if they are small and many
        layer, x = fused_lstm.prepare(nn.LSTM(15, 15)), torch.randn(90, 30, 15)
        time.sleep(0.15)  # what another test has measured holds no longer
    found = []
    for _ in range(20):  # it holds for a tenth of a second, which a busy machine may take
        layer(x)
        found.append(kernels.ops().meeting_time(2))
    assert max(found) > 0
    assert kernels.ops().meeting_time(61) == 0


@pytest.mark.parametrize(
    ("order", "change"),
    [
        ("a short call", {"steps": 1, "batch": 16}),
        ("in turns", {"steps": 1, "batch": 17, "layers": 3}),
        ("a short call", {"steps": 4, "batch": 4, "hidden": 3000}),
        ("in turns", {"steps": 5, "batch": 3, "hidden": 255, "layers": 3}),
        ("a short call", {"steps": 5, "batch": 3, "hidden": 256}),
        ("a short call", {"steps": 16, "batch": 1, "hidden": 1024}),
        ("in turns", {"steps": 16, "batch": 1, "hidden": 1025}),
        ("a short call", {"steps": 1, "batch": 1, "fuse": "steps", "threads": 64}),
        ("a short call", {"steps": 2, "batch": 8, "directions": 2, "projected": 50}),
        ("a short call on one thread", {"steps": 1, "batch": 1, "inputs": 30, "hidden": 50}),
    ],
    ids=str,
)
def test_a_call_of_few_rows_packs_nothing(order, change):
    for save in (True, False):
        text = plan(**change, save=save)
        assert f"layers: {order};" in text
        packed = re.search(r"recurrent|panels", text.partition("backward:")[0])
        assert (packed is None) == ("short" in order)


def test_a_matrix_unit_multiplies_more_than_8_rows(bf16_isa):
    """Without one 16 rows of bfloat16 are read as they lie."""
    has_unit = bf16_isa.startswith(("amx", "emulated"))
    for rows in (8, 9, 16, 17):
        text = plan(steps=rows, batch=1, hidden=1025, dtype=torch.bfloat16, isa=bf16_isa)
        assert ("layers: a short call;" in text) == (rows <= (8 if has_unit else 16)), rows


def test_bfloat16_is_float32_in_a_short_call_alone(bf16_isa):
    options = {"dtype": torch.bfloat16, "isa": bf16_isa, "batch": 1}
    assert ", 32-bit" in plan(steps=4, **options)
    assert ", 16-bit" in plan(steps=5, **options)


def test_steps_of_many_rows_make_their_input_products_too():
    if "avx512" not in native.OPS.isa_names():
        pytest.skip("this CPU has no AVX-512")
    shape = {"steps": 100, "batch": 64, "inputs": 64, "hidden": 256, "layers": 1}
    text = plan(isa="avx512", save=False, **shape)
    assert "input product: in each step" in text
    assert "input part" not in text
    for change in ({"steps": 7}, {"inputs": 129}, {"projected": 20}, {"dtype": torch.float64}):
        sizes = {"isa": "avx512", **shape, "inputs": 128} | change
        assert "input product: in each step" not in plan(**sizes), change


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_steps_make_input_products_with_near_weights(isa):
    """In inference of so many rows, and with few inputs trained too, on two threads."""
    if isa not in native.OPS.isa_names():
        pytest.skip(f"this CPU has no {isa}")

    def is_in_step(**sizes) -> bool:
        return "input product: in each step" in plan(isa=isa, layers=1, **sizes)

    few = {"steps": 8, "batch": 4, "hidden": 64, "inputs": 64}
    assert is_in_step(**few)
    for change in ({"steps": 7}, {"batch": 3}, {"inputs": 65}, {"hidden": 63}, {"threads": 1}):
        assert not is_in_step(**few | change), change
    near = {"steps": 8, "batch": 12, "hidden": 256, "inputs": 200, "save": False}
    assert is_in_step(**near) == (isa == "avx512")
    for change in ({"batch": 11}, {"hidden": 512}, {"threads": 1}, {"save": True}):
        assert not is_in_step(**near | change), change


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
@pytest.mark.parametrize(
    ("in_step", "change"), [(True, {}), (False, {"steps": 2}), (False, {"batch": 1})]
)
def test_a_prepared_call_of_one_step_meets_once(in_step, change, isa):
    if isa not in native.OPS.isa_names():
        pytest.skip(f"this CPU has no {isa}")
    one = {"steps": 1, "batch": 22, "hidden": 112, "inputs": 112, "layers": 1, "prepared": True}
    text = plan(isa=isa, save=False, **one | change)
    assert ("input product: in each step" in text) == in_step


@pytest.mark.parametrize(
    ("in_step", "change"),
    [
        (True, {}),
        (True, {"hidden": 2048, "batch": 4}),
        (False, {"batch": 3}),
        (False, {"steps": 2, "batch": 16}),
        (True, {"steps": 2, "batch": 16, "hidden": 256}),
        (False, {"steps": 2, "batch": 7, "hidden": 256}),
    ],
)
def test_prepared_bfloat16_of_a_matrix_unit_is_met_in_steps(in_step, change):
    """In calls of one step, and in longer ones where weights are near or rows many."""
    if "amx" not in native.OPS.isa_names():
        pytest.skip("this CPU has no AMX")
    call = {"steps": 1, "batch": 60, "hidden": 512, "inputs": 512, "layers": 1} | change
    call["inputs"] = call["hidden"]
    text = plan(isa="amx", dtype=torch.bfloat16, prepared=True, save=False, **call)
    assert ("input product: in each step" in text) == in_step


def test_prepared_weights_of_avx2_are_met_in_steps_of_many_rows():
    if "avx2" not in native.OPS.isa_names():
        pytest.skip("this CPU has no AVX2")

    def is_in_step(**change) -> bool:
        sizes = {"steps": 20, "batch": 12, "hidden": 128, "inputs": 128, "prepared": True} | change
        return "input product: in each step" in plan(isa="avx2", layers=1, save=False, **sizes)

    assert is_in_step()
    for change in ({"batch": 11}, {"hidden": 512}, {"prepared": False}):
        assert not is_in_step(**change), change


def test_input_products_are_made_in_parts_where_nothing_is_saved():
    shape = {"steps": 1000, "batch": 64, "hidden": 256, "inputs": 2000}
    assert "input product: 1000 of 1000 steps" in plan(**shape)
    parts = 16 * 2**20 // (64 * 4 * 256 * 4)
    text = plan(**shape, save=False)
    assert f"input product: {parts} of 1000 steps" in text
    assert f" input part 1 x {parts * 64} x 1024," in text


@pytest.mark.parametrize(
    ("isa", "lanes", "registers", "gates", "plain", "transposed"),
    [
        ("avx512", 16, 32, "6 x 4", "9 x 3", "8 x 3"),
        ("avx2", 8, 16, "3 x 4", "4 x 3", "4 x 3"),
        ("sse2", 4, 16, "3 x 4", "4 x 3", "4 x 3"),
    ],
)
def test_tiles_follow_from_the_registers(isa, lanes, registers, gates, plain, transposed):
    if isa not in native.OPS.isa_names():
        pytest.skip(f"this CPU has no {isa}")
    text = plan(isa=isa)
    assert text.startswith(f"{isa}, 2 threads, 32-bit\n")
    tiles = f"gates {gates}, plain {plain}, transposed {transposed}\n"
    assert f"rows by vectors of {lanes} in {registers} registers: {tiles}" in text
    assert f"vectors of {lanes // 2} in" in plan(isa=isa, dtype=torch.float64)


def test_a_plan_of_this_team_is_the_default():
    torch.set_num_threads(3)
    text = plan(threads=None)
    assert text == plan(threads=3, isa=native.OPS.isa())
    assert text != plan(threads=2)


MODULES = {"": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}


def allocated(shape: Shape, dtype: torch.dtype, save: bool, cell: str = "") -> tuple[int, float]:
    """Bytes that a call keeps, and that its plan and its results are."""
    torch.set_num_threads(2)
    T, B, _, H, L = shape
    weights = [p.detach() for p in MODULES[cell](*shape[2:], dtype=dtype).parameters()]
    x, states = torch.randn(T, B, H, dtype=dtype), torch.zeros(2, L, B, H, dtype=dtype)
    fused_lstm.release_memory()
    options = {"cell": cell, "rates": [0.0] * 4} if cell else {}
    with torch._C._AutoDispatchBelowAutograd():
        native.OPS.lstm(x, *states, weights, 0.0, None, "layers", save, **options)
    results = x.nbytes + states.nbytes
    text = plan(*shape, save=save, dtype=dtype, cell=cell)
    planned = kib(text, "forward" if save else "inference") * 1024
    return fused_lstm.release_memory(), planned + results


@pytest.mark.parametrize(
    ("T", "B", "H"),
    [(40, 32, 256), (160, 32, 104), (4, 4, 1024)],
    ids=["in-turns", "wavefront", "short"],
)
@pytest.mark.parametrize("save", [True, False], ids=["save", "inference"])
@pytest.mark.parametrize("cell", MODULES)
def test_a_call_allocates_what_the_plan_says(cell, save, T, B, H):
    found, planned = allocated(Shape(T, B, H, H, 2), torch.float32, save, cell)
    assert found == pytest.approx(planned, rel=0.02)


def test_buffers_have_the_gates_that_there_are():
    shape = {"steps": 9, "batch": 8, "hidden": 256, "inputs": 256}
    kept, made = (re.compile(rf"{name} 2 x 72 x (\d+)") for name in ("gates", "c"))
    for cell, gates in {"": 1024, "coupled": 768, "gru": 1024}.items():
        text = plan(**shape, cell=cell)
        assert int(kept.search(text)[1]) == gates
        assert made.search(text)[1] == "256"
    text = plan(**shape, cell="rnn_tanh")
    assert not kept.search(text)
    assert not made.search(text)


@pytest.mark.parametrize("hidden", [256, 128], ids=["in-turns", "wavefront"])
@pytest.mark.parametrize("save", [True, False], ids=["save", "inference"])
def test_a_bfloat16_call_allocates_as_planned(bf16_isa, save, hidden, whole):
    """But for the states, which are float32 inside and converted."""
    if bf16_isa == "emulated" and not save and not whole:
        pytest.skip("seconds where a matrix unit is emulated, and other sets run it: --slow")
    found, planned = allocated(Shape(40, 32, hidden, hidden, 2), torch.bfloat16, save)
    assert found == pytest.approx(planned, rel=0.06)


def test_errors_name_the_argument():
    for message, change in {
        "fuse: got 'none'; expected 'steps' or 'layers'": {"fuse": "none"},
        "threads: got 0; expected 1 or more": {"threads": 0},
        "layers: got 0; expected 1 or more": {"layers": 0},
        "dtype: got Half; expected float32, float64 or bfloat16": {"dtype": torch.float16},
        "FUSED_LSTM_ISA: got 'mmx'; expected one of": {"isa": "mmx"},
    }.items():
        with pytest.raises(RuntimeError, match="^ValueError: " + message):
            plan(**change)


MIB = 1 << 20


@pytest.mark.parametrize(
    ("intel", "l2", "registers", "kept", "part", "rows"),
    [
        (True, 2 * MIB, 32, 1.5 * MIB, 0.375 * MIB, 4),
        (True, MIB, 32, 0.75 * MIB, 0.1875 * MIB, 4),
        (False, MIB, 32, 2**40, 2**40, 1),  # AMD: never
        (True, 2 * MIB, 16, MIB, 0.1875 * MIB, 1),
        (False, MIB, 16, MIB, 0.1875 * MIB, 1),
        (True, 2 * MIB, 8, MIB, 0.1875 * MIB, 1),  # a matrix unit's
    ],
)
def test_weights_are_fetched_ahead_where_a_last_cache_is_slow(
    intel, l2, registers, kept, part, rows
):
    assert kernels.ops().fetching(intel, l2, registers) == [kept, part, rows]


@pytest.mark.parametrize(
    ("intel", "bytes", "ahead"), [(True, 2 * MIB, 4096), (True, MIB, 0), (False, 64 * MIB, 0)]
)
def test_prepared_weights_are_fetched_ahead_where_they_leave_the_l2_cache(intel, bytes, ahead):
    assert kernels.ops().prepared_ahead(intel, 2 * MIB, bytes) == ahead


@pytest.mark.parametrize(
    ("precision", "batch", "forward", "backward"),
    [
        ("tf32", 16, "2 terms", "plain"),
        ("tf32", 15, "plain", "plain"),
        ("bf16", 4, "1 term", "1 term"),
        ("ieee", 64, "plain", "plain"),
    ],
)
def test_two_terms_are_forwards_of_many_rows(precision, batch, forward, backward):
    text = plan(batch=batch, precision=precision, isa=UNIT)
    plain = plan(batch=batch, isa=UNIT).partition(",")[0]
    by = {"plain": plain} | {name: f"{UNIT}, {name}" for name in ("1 term", "2 terms")}
    assert text.startswith(by[forward] + ", ")
    assert (f"backward by {by[backward]}\n" in text) == (backward != forward)
