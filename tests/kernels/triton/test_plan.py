"""The plan: what fits, what does not, and that it says why."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest

from fused_lstm.call.spec import GRU, PLAIN, Spec
from fused_lstm.triton import launch
from fused_lstm.triton.choice import choose, cost
from fused_lstm.triton.devices import AMD, DEVICES, INTERPRETER, Device, by_arch
from fused_lstm.triton.plan import SIZES, Plan, has_phase, plan

H100 = DEVICES["H100"]
kinds = pytest.mark.parametrize("kind", ["steps", "layers"])
directions = pytest.mark.parametrize("direction", ["forward", "backward"])


@pytest.mark.parametrize(
    ("device", "dtype", "gates"),
    [  # each pair of two of them; --slow has all
        pytest.param(
            device, dtype, gates, id=f"{name}-{dtype}-{gates}",
            marks=[] if (d + s + g) % 3 == 0 else pytest.mark.slow,
        )
        for d, (name, device) in enumerate((DEVICES | AMD).items())
        for s, dtype in enumerate(SIZES)
        for g, gates in enumerate([1, 3, 4])
    ],
)  # fmt: skip
def test_every_plan_fits_its_device(device, dtype, gates):
    shape = {"layers": 2, "dtype": dtype, "device": device, "gates": gates}
    hidden_sizes, batches = (1, 17, 200, 650, 1024, 1500, 2048, 4096, 10000), (1, 20, 64, 1000)
    for kind, direction in product(("steps", "layers"), ("forward", "backward")):
        for hidden, batch in product(hidden_sizes, batches):
            for projected in (0, 1, hidden // 2, hidden + 9) if gates == 4 else (0,):
                shape |= {"hidden": hidden, "batch": batch, "projected": projected}
                assert_fits(plan(kind, direction, **shape), device)


def assert_fits(found: Plan, device: Device) -> None:
    assert found.smem <= device.smem
    sums, others = found.outputs, found.hidden
    if found.direction == "backward":
        sums, others = others, sums
    assert found.chunks * found.block_k >= sums
    assert found.chunks_hr * found.block_k >= others * (found.projected > 0)
    assert found.padded_batch >= found.batch
    rows = found.batch_blocks * found.block_b
    assert (found.row_groups - 1) * rows < found.batch, "a group of programs has no row"
    units = found.units * found.blocks // found.layers
    widest = max(found.hidden, found.outputs)
    assert units >= widest, "a unit has no program"
    assert units - widest < found.units, "a program has no unit"
    assert found.units % found.split == 0
    assert found.own >= (16 if found.k_parts == 1 else 8), "a product of fewer rows"
    assert found.rows >= 16
    assert found.block_k % found.k_parts == 0
    assert found.k_parts in (1, found.warps)
    assert 0 <= found.resident <= found.chunks
    assert 0 <= found.resident_ih <= found.chunks * (found.kind == "layers")
    assert 0 <= found.resident_hr <= found.chunks_hr
    assert (found.chunks_hr > 0) == (found.projected > 0)
    assert found.split in (1, found.gates)
    if found.persistent and not found.alone:
        assert found.programs <= device.sms, "would wait for a program that cannot start"
    assert found.why
    floor = cost(found, device)
    assert floor.floor_us > 0
    assert floor.bytes_l2 > 0


@directions
@pytest.mark.parametrize(
    ("device", "hidden", "dtype", "fraction"),
    [
        ("H100", 200, "bf16", 1.0),
        ("H100", 650, "bf16", 1.0),
        ("H100", 1024, "bf16", 1.0),
        ("H100", 1500, "bf16", 1.0),
        ("H100", 1500, "fp16", 1.0),
        ("H100", 650, "fp32", 1.0),
        ("H100", 1500, "fp32", 9 / 24),  # twice what the chip holds
        ("H100", 2048, "bf16", 9 / 16),
        ("A100", 1024, "bf16", 1.0),
        ("A100", 1500, "bf16", 6 / 12),
        ("RTX 5090", 1500, "bf16", 3 / 12),
        ("B200", 1500, "bf16", 1.0),
    ],
)
def test_resident_fraction(direction, device, hidden, dtype, fraction):
    found = plan(
        "steps", direction, hidden=hidden, batch=20, layers=1, dtype=dtype, device=DEVICES[device]
    )
    assert found.persistent
    assert found.resident_fraction == fraction
    assert any("resident" in why for why in found.why)


@directions
def test_full_precision_streams(direction):
    shape = {"hidden": 650, "batch": 20, "layers": 1, "dtype": "fp32", "device": H100}
    assert plan("steps", direction, tf32=True, **shape).precision == "tf32"
    found = plan("steps", direction, tf32=False, **shape)
    assert (found.precision, found.resident) == ("ieee", 0)
    assert any("without tensor cores" in why for why in found.why)


@kinds
@directions
def test_a_grid_that_cannot_be_at_once_is_launched_step_by_step(kind, direction):
    found = plan(
        kind, direction, hidden=10**4, batch=20, layers=2, dtype="bf16", device=DEVICES["L4"]
    )
    assert found.mode == "per-step"
    assert found.launches(3) == [(0, 1), (1, 2), (2, 3)]
    parts = [("finish",)] if direction == "forward" else [("sum", "finish")]
    assert found.phases() == parts
    assert any("one launch a step" in why for why in found.why)


@kinds
def test_the_interpreter_never_waits(kind):
    for direction in ("forward", "backward"):
        found = plan(
            kind, direction, hidden=300, batch=20, layers=2, dtype="fp32", device=INTERPRETER
        )
        assert not found.persistent


def test_persistent_is_one_launch():
    found = plan("steps", "backward", hidden=650, batch=20, layers=1, dtype="bf16", device=H100)
    assert found.launches(35) == [(0, 35)]
    assert found.phases() == [("sum", "finish")]


@directions
@pytest.mark.parametrize(
    ("hidden", "layers", "kind"),
    [
        (200, 2, "layers"),
        (650, 2, "layers"),
        (1500, 2, "steps"),
        (650, 1, "steps"),
        (1024, 2, "steps"),
    ],
)
def test_choice_between_a_wavefront_and_a_launch_a_layer(direction, hidden, layers, kind):
    found = choose(direction, hidden=hidden, batch=20, layers=layers, dtype="bf16", device=H100)
    assert found.kind == kind
    if layers > 1:
        assert "wave of" in found.why[-1] or "at once" in found.why[-1]


@directions
@pytest.mark.parametrize(
    ("hidden", "batch", "groups", "block_b", "batch_blocks"),
    [
        (512, 256, 4, 64, 1),  # 32 programs each
        (512, 64, 2, 32, 1),
        (512, 1024, 4, 64, 4),
        (1500, 256, 1, 64, 4),  # 94 programs: no room for others
        (200, 20, 1, 32, 1),
    ],
)
def test_rows_of_a_large_batch_are_shared_out(
    direction, hidden, batch, groups, block_b, batch_blocks
):
    shape = {"hidden": hidden, "batch": batch, "layers": 1, "dtype": "bf16", "device": H100}
    found = plan("steps", direction, **shape)
    assert (found.row_groups, found.block_b, found.batch_blocks) == (groups, block_b, batch_blocks)
    assert any("shared out" in why for why in found.why) == (groups > 1)
    if (hidden, batch) == (512, 256):
        assert found.programs > 0.9 * H100.sms


@directions
def test_a_projection_is_a_phase_and_a_meeting_more(direction):
    shape = {"hidden": 650, "batch": 20, "layers": 1, "dtype": "bf16"}
    plain = plan("steps", direction, device=H100, **shape)
    found = plan("steps", direction, device=H100, projected=320, **shape)
    forward = direction == "forward"
    assert found.phases() == [("finish", "project") if forward else ("sum", "gather", "finish")]
    assert cost(found, H100).barriers == cost(plain, H100).barriers + 1
    assert (found.resident_hr, found.resident_fraction) == (found.chunks_hr, 1)
    assert found.chunks == (3 if forward else 6)
    assert found.chunks_hr == (6 if forward else 3)
    # Where nothing can wait, phases that programs meet between are launches.
    tiny = dataclasses.replace(H100, sms=1)
    found = plan("steps", direction, device=tiny, projected=320, **shape)
    parts = [("finish",), ("project",)] if forward else [("sum", "gather"), ("finish",)]
    assert found.phases() == parts


def test_a_projection_streams_where_it_does_not_fit():
    shape = {"hidden": 1500, "batch": 20, "layers": 1, "dtype": "fp32", "device": H100}
    found = plan("steps", "forward", projected=512, **shape)
    assert found.resident == found.chunks
    assert 0 < found.resident_hr < found.chunks_hr
    assert any("of the projection" in why for why in found.why)


@directions
@pytest.mark.parametrize(
    ("device", "hidden", "batch", "dtype", "gates", "own"),
    [
        ("A100", 200, 20, "bf16", 4, 8),
        ("H100", 650, 20, "bf16", 4, 16),
        ("A100", 650, 20, "bf16", 4, 16),
        ("H100", 768, 16, "fp16", 4, 16),  # FlashRNN's
        ("H100", 1024, 20, "bf16", 4, None),  # 128 programs of 8 units would read h for too long
        ("A100", 1024, 20, "bf16", 4, None),
        ("RTX 5090", 650, 20, "bf16", 4, 8),  # of 16 the weights do not fit
        ("H100", 1500, 20, "bf16", 4, None),
        ("H100", 650, 20, "fp32", 4, None),
        ("B200", 650, 20, "bf16", 4, None),
        ("H100", 650, 20, "bf16", 3, 16),
        ("H100", 1500, 20, "bf16", 1, 16),
    ],
)
def test_where_a_sum_is_shared_out_to_warps(direction, device, hidden, batch, dtype, gates, own):
    shape = {"hidden": hidden, "batch": batch, "layers": 1, "dtype": dtype, "gates": gates}
    found = plan("steps", direction, device=DEVICES[device], **shape)
    assert found.k_parts == (1 if own is None else 8)
    assert found.own == (16 if found.summed_gates > 1 else own or 16)
    if own is not None:
        assert found.resident == found.chunks
        blocks = -(-hidden // found.units)
        assert found.programs == blocks * found.split
        assert any("registers hold its weights" in why for why in found.why)
        whole = plan("steps", direction, device=DEVICES[device], **shape, in_parts=False)
        assert whole.k_parts == 1


@directions
@pytest.mark.parametrize(
    ("device", "parts"),
    [
        ("A100", 8),
        ("RTX 5090", 1),  # the sums would take the memory of a third of its resident weights
        ("H100", 1),  # a warp group's product
    ],
)
def test_where_a_sum_of_streamed_weights_is_shared_out(direction, device, parts):
    shape = {"hidden": 1500, "batch": 20, "layers": 1, "dtype": "bf16"}
    found = plan("steps", direction, device=DEVICES[device], **shape)
    assert found.k_parts == parts
    assert (found.resident < found.chunks) == (device != "H100")
    assert found.smem <= DEVICES[device].smem


@pytest.mark.parametrize(
    ("device", "hidden", "batch", "gates", "split"),
    [
        ("H100", 768, 16, 4, 1),  # FlashRNN's
        ("H100", 200, 20, 4, 1),
        ("A100", 200, 20, 4, 1),
        ("H100", 650, 20, 4, 4),  # to read all gates takes longer than to meet
        ("H100", 650, 20, 3, 1),
        ("A100", 768, 16, 4, 4),  # h of all gates does not fit beside the weights
    ],
)
def test_where_a_backward_sums_over_all_gates(device, hidden, batch, gates, split):
    """It has one meeting a step and not two, and reads G times as much."""
    shape = {"hidden": hidden, "batch": batch, "layers": 1, "dtype": "bf16", "gates": gates}
    found = plan("steps", "backward", device=DEVICES[device], **shape)
    assert (found.k_parts, found.split, found.resident_fraction) == (8, split, 1)
    assert cost(found, DEVICES[device]).barriers == 1 + (split > 1)
    assert found.summed_gates * found.split == gates
    assert any("a meeting less" in why for why in found.why) == (split == 1)


@directions
@pytest.mark.parametrize(
    ("hidden", "batch", "alone"),
    [
        (64, 1, "forward"),
        (64, 1024, "both"),
        (128, 20, ""),  # a barrier is less than a cell's work on few multiprocessors
        (128, 4096, "both"),
        (129, 4096, ""),  # the weights of 256 units are more than an SM holds
    ],
)
def test_where_a_program_has_a_lane_alone(direction, hidden, batch, alone):
    shape = {"hidden": hidden, "batch": batch, "dtype": "bf16", "device": H100}
    found = choose(direction, layers=1, **shape)
    assert found.alone == (alone in (direction, "both"))
    assert_fits(found, H100)
    if found.alone:
        assert found.meetings == 0
        assert (found.launches(9), cost(found, H100).barriers) == ([(0, 9)], 0)
        assert found.padded_batch >= batch
        assert "waits for no other" in found.why[0]


@pytest.mark.parametrize(
    "change",
    [{"dtype": "fp32"}, {"projected": 32}, {"norm": 2}, {"device": AMD["MI300X"]}],
    ids=str,
)
def test_plans_that_never_have_a_lane_alone(change):
    shape = {"hidden": 64, "batch": 4096, "layers": 1, "dtype": "bf16", "device": H100} | change
    assert not choose("forward", **shape).alone


MAY_HAVE_PHASE = {
    "an LSTM in bf16": ({}, PLAIN),
    "an LSTM in fp16": ({"dtype": "fp16"}, Spec(peephole=True, zoneout=(0.0, 0.1))),
    "both directions": ({"kind": "both"}, PLAIN),
    "groups of rows": ({"hidden": 200, "batch": 100}, PLAIN),
    "TF32": ({"dtype": "fp32", "hidden": 200}, PLAIN),
    "a GRU in TF32": ({"dtype": "fp32", "hidden": 200, "gates": 3}, GRU),
}
NEVER_HAS_PHASE = {
    "backward": ({"direction": "backward"}, PLAIN),
    "a wavefront": ({"kind": "layers", "layers": 2, "hidden": 200}, PLAIN),
    "heads": ({"kind": "heads", "layers": 2, "hidden": 200}, PLAIN),
    "projected": ({"projected": 300}, PLAIN),
    "normalized": ({"norm": 2}, Spec(layer_norm=True)),
    "a meeting inside a step": ({"inner": (1,), "inside": 1}, PLAIN),
    "a scan": ({"gates": 0}, PLAIN),
    "weights that stream": ({"hidden": 2048}, PLAIN),
    "one launch a step": ({"hidden": 10000}, PLAIN),
    "full precision": ({"dtype": "fp32", "tf32": False}, PLAIN),
    "fewer words than threads": (
        {"device": DEVICES["A100"], "hidden": 16, "batch": 3, "in_parts": False}, PLAIN,
    ),
    "a GRU in bf16": ({"gates": 3}, GRU),
    "tanh in bf16": ({"gates": 1}, Spec("rnn_tanh")),
    "zoneout of h in bf16": ({}, Spec(zoneout=(0.1, 0.0))),
    "recurrent dropout": ({"dtype": "fp32", "hidden": 200}, Spec(recurrent_dropout=0.1)),
    "AMD": ({"device": AMD["MI300X"]}, PLAIN),
    "tcgen05": ({"device": DEVICES["B200"]}, PLAIN),
    "the interpreter": ({"device": INTERPRETER}, PLAIN),
}  # fmt: skip


@pytest.mark.parametrize("case", MAY_HAVE_PHASE | NEVER_HAS_PHASE)
def test_where_h_may_be_exchanged_by_its_phase(case):
    shape, cell = (MAY_HAVE_PHASE | NEVER_HAS_PHASE)[case]
    shape = {"kind": "steps", "direction": "forward", "hidden": 650, "batch": 20, "layers": 1,
             "dtype": "bf16", "device": H100} | shape  # fmt: skip
    found = plan(shape.pop("kind"), shape.pop("direction"), **shape)
    assert not has_phase(found, cell), "nobody has asked for it"
    asked = dataclasses.replace(found, phase=True)
    assert has_phase(asked, cell) == (case in MAY_HAVE_PHASE)
    assert launch.slots(asked, cell) == (3 if case in MAY_HAVE_PHASE else 2)


def test_a_lane_alone_has_no_phase():
    found = choose("forward", hidden=64, batch=20, layers=1, dtype="bf16", device=H100)
    assert found.alone
    assert not has_phase(dataclasses.replace(found, phase=True), PLAIN)


def test_fewer_multiprocessors_mean_more_units_each():
    few = dataclasses.replace(H100, sms=60)
    shape = {"hidden": 1500, "batch": 20, "layers": 1, "dtype": "bf16"}
    assert plan("steps", "forward", device=H100, **shape).units == 16
    assert plan("steps", "forward", device=few, **shape).units == 32


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_meeting_inside_a_step_is_a_phase_more(direction):
    shape = {"hidden": 650, "batch": 20, "layers": 1, "dtype": "bf16", "gates": 2}
    plain = choose(direction, device=H100, **shape)
    inner = choose(direction, device=H100, inner=(1, 4), inside=3, **shape)  # and a sum
    assert (plain.meetings, inner.meetings) == (1, 4)
    assert inner.planes == (2 if direction == "forward" else 5)
    assert cost(inner, H100).floor_us > cost(plain, H100).floor_us
    per_step = dataclasses.replace(inner, mode="per-step").phases()
    assert per_step[0 if direction == "forward" else -1] == ("finish",)
    found = [name for part in per_step for name in part if name.startswith("inner")]
    assert found == ["inner 0", "inner 1", "inner 2"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("device", [H100, DEVICES["A100"], DEVICES["L4"]], ids=lambda d: d.name)
def test_programs_that_meet_without_a_gate_of_h_share_a_lane(device, direction):
    shape = {"hidden": 650, "batch": 20, "layers": 1, "dtype": "bf16", "gates": 0}
    alone = choose(direction, device=device, **shape)
    assert (alone.alone, alone.meetings) == (True, 0)
    for inner in ((), (1,)):
        found = choose(direction, device=device, inner=inner, inside=1, **shape)
        assert (found.alone, found.meetings, found.split) == (False, 2, 1)
        assert (found.programs, found.persistent) == (41, True)
        assert found.resident_fraction == 1


def test_each_product_inside_a_step_says_whether_its_operands_are_registers():
    """On an H100 a warp group multiplies tiles of 64 rows from shared memory, and needs no copy."""
    shape = {"hidden": 650, "batch": 20, "layers": 1, "dtype": "bf16", "in_parts": False}
    found = plan("steps", "forward", device=H100, gates=1, inner=(1, 4), inside=2, **shape)
    assert (found.inner_rows, found.hold, found.hold_hr) == ([16, 64], True, (True, False))
    assert [product.HOLD for product in launch._weights(found)["INNER"]] == [True, False]
    shape |= {"device": DEVICES["A100"], "gates": 1, "inner": (1, 4), "inside": 2}
    older = plan("steps", "forward", **shape)
    assert older.hold_hr == (True, True)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("hidden", [64, 650, 1500, 3000])
@pytest.mark.parametrize("dtype", SIZES)
def test_products_inside_a_step_fit_every_device(dtype, hidden, direction):
    for device in DEVICES.values():
        found = choose(
            direction, hidden=hidden, batch=20, layers=1, dtype=dtype, device=device, gates=1,
            inner=(4, 2), inside=2,
        )  # fmt: skip
        assert found.smem <= device.smem
        assert found.programs <= device.sms or not found.persistent


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "all"}, "kind: got 'all'; expected 'steps', 'layers', 'both' or 'heads'"),
        ({"direction": "up"}, "direction: got 'up'; expected"),
        ({"dtype": "int8"}, "dtype: got 'int8'; expected one of fp16, bf16, fp32, fp64"),
        ({"hidden": 0}, "hidden: got 0; expected at least 1"),
        ({"batch": -1}, "batch: got -1; expected at least 1"),
        ({"layers": 0}, "layers: got 0; expected at least 1"),
        ({"projected": -3}, "projected: got -3; expected at least 0"),
        ({"inside": 1, "kind": "layers"}, "inner: got .* expected 'steps' or 'both'"),
        ({"inner": (1,)}, "inside: got 0 with inner=.*; expected the meetings"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_errors_name_the_argument(change, message):
    shape = {"kind": "steps", "direction": "forward", "hidden": 8, "batch": 1, "layers": 1}
    shape |= {"dtype": "fp32", "device": H100} | change
    with pytest.raises(ValueError, match=message):
        plan(shape.pop("kind"), shape.pop("direction"), **shape)


def test_by_arch():
    assert by_arch(90).name == "H100"
    with pytest.raises(ValueError, match="arch: got sm_70; expected one of sm_80"):
        by_arch(70)
