"""fused_lstm.tools.inspect: what it reads from machine code, and what must be true of the kernels.

`make oldest` runs those that are not slow under Triton 3.6.
"""

from __future__ import annotations

import json
import sys

import pytest

import cores
import fresh
from fused_lstm.tools import inspect, sass
from fused_lstm.triton import choice, devices, plan

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;          /* 0x00000a00ff017b82 */
        /*0010*/                   STL [R1], R2 ;                  /* 0x0 */
        /*0020*/                   LDG.E.128.STRONG.GPU R4, desc[UR4][R2.64] ;
        /*0030*/               @P0 LDL R2, [R1] ;
        /*0040*/                   HGMMA.64x32x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/                   REDG.E.ADD.STRONG.GPU desc[UR4][R2.64], R0 ;
        /*0070*/                   LDG.E.STRONG.GPU R0, desc[UR4][R2.64] ;
        /*0080*/                   CCTL.IVALL ;
        /*0090*/              @!P1 BRA 0x70 ;
        /*00a0*/         @!PT  UP0 UIADD3 UR4, UR4, 0x1, URZ ;
        /*00b0*/               @P2 BRA 0x20 ;
        /*00c0*/                   EXIT ;
        /*00d0*/                   BRA 0xd0;
"""


def test_the_time_loop_is_the_longest():
    code = sass.instructions(SASS)
    assert len(code) == 14
    assert sass.loops(code) == [(0x70, 0x90), (0x20, 0xB0)]
    assert sass.time_loop(code) == (0x20, 0xB0)
    assert sass.time_loop(code[:3]) is None


def test_what_is_counted():
    code = sass.instructions(SASS)
    assert sass.count(code)["spills"] == 2
    loop = sass.count(sass.inside(code, (0x20, 0xB0)))
    assert loop["spills"] == 1
    assert loop["HGMMA"] == 1
    assert (loop["barrier_cta"], loop["barrier_gpu"], loop["acquire"]) == (1, 1, 1)


LOOPS = """
        /*0010*/                   LDG.E.U16 R4, [R2.64] ;
        /*0020*/                   LDGSTS.E.BYPASS.128 [R8], [R2.64] ;
        /*0030*/                   HMMA.16816.F32.BF16 R24, R4, R6, R24 ;
        /*0038*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/              @!P1 BRA 0x20 ;
        /*0050*/                   STG.E.64 [R2.64], R0 ;
        /*0060*/                   RED.E.ADD.STRONG.GPU [R2.64], R0 ;
        /*0070*/               @P2 BRA 0x10 ;
"""


def test_what_is_executed():
    """The inner loop three times; if the products say that it was not three, nothing."""
    code = sass.instructions(LOOPS)
    found = sass.executed(code, [3], {3 * 16 * 8 * 16, 5 * 16 * 8 * 16})
    wanted = {"instructions": 4 + 3 * 4, "syncs": 3, "bytes": 2 + 3 * 16 + 8, "arrivals": 1}
    assert found == wanted
    assert sass.executed(code, [3], {4 * 16 * 8 * 16}) is None


# A step's order, as an assembler must leave it.
STEP = [
    "LDG.E.128.STRONG.GPU R4, [R2.64]",
    "STG.E [R2.64], R4",
    "BAR.SYNC.DEFER_BLOCKING 0x0",
    "MEMBAR.SC.GPU",
    "RED.E.ADD.STRONG.GPU [R2.64], R0",
    "STG.E [R6.64], R4",
    "LDG.E.STRONG.GPU R0, [R2.64]",
    "CCTL.IVALL",
    "BRA 0x60",
]
CHANGES = {
    "a fence left out": (lambda step: step[:3] + step[4:], "without a sync and a fence"),
    "a sync left out": (lambda step: step[:2] + step[3:], "without a sync and a fence"),
    "a store after the sync": (
        lambda step: [step[0], step[2], step[1], *step[3:]],
        "without a sync and a fence",
    ),
    "an exchange read early": (lambda step: step[1:6] + step[:1] + step[6:], "is read between"),
    "no loop around the acquire": (lambda step: step[:8], "not in a loop"),
    "the read-only path": (lambda step: ["LDG.E.CONSTANT R0, [R2.64]", *step], "older value"),
}


def listing(step: list[str]) -> sass.Code:
    return [(16 * index, text) for index, text in enumerate(step)]


def test_a_right_order_has_no_problems():
    assert sass.order(listing(STEP)) == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_order_is_found(change):
    changed, message = CHANGES[change]
    (problem,) = sass.order(listing(changed(STEP)))
    assert message in problem


def test_a_floor_counts_the_rows_that_are_moved():
    """30 rows of batch travel as 32, 17 as they are, and H=650 as 768 columns."""
    costs = [
        choice.cost(plan.plan("steps", "forward", hidden=650, batch=batch, layers=1, dtype="bf16",
                            device=devices.DEVICES["H100"]), devices.DEVICES["H100"])
        for batch in (17, 30, 32)
    ]  # fmt: skip
    state = 650 * (4 * 2 + 2 + 2 * 4)  # a row's gates, h and c
    assert costs[0].bytes_l2 == 41 * 17 * 768 * 2 + 17 * state
    assert costs[1].bytes_l2 == 41 * 32 * 768 * 2 + 30 * state
    assert costs[2].bytes_l2 - costs[1].bytes_l2 == 2 * state


COMMAND = """
import runpy, signal, sys
signal.alarm(600)  # seconds
sys.argv[1:] = ARGUMENTS
try:
    runpy.run_module("fused_lstm.tools.inspect", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code
"""


def run(*arguments: str) -> str:
    """Return what the command prints in a process of its own: this one may be the interpreter's."""
    return fresh.python(COMMAND.replace("ARGUMENTS", repr([*arguments])))


def reports(tmp_path, *arguments: str) -> list[dict]:
    path = tmp_path / "reports.json"
    run(*arguments, "--json", str(path))
    return json.loads(path.read_text())


JOBS = str(cores.own())
HIDDEN = ("200", "650", "1024", "1500")


SLOW = pytest.mark.slow  # `make inspect` runs these too


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        ("sm_90", "bf16"),
        pytest.param("sm_90", "fp32", marks=SLOW),
        pytest.param("sm_80", "bf16", marks=SLOW),
        pytest.param("sm_80", "fp32", marks=SLOW),
    ],
)
def test_kernels_of_a_gpu_that_is_not_here(tmp_path, arch, dtype, whole):
    """Both directions: no spill in a time loop, order kept. Of the post's sizes the smallest, where
    ptxas spilled to leave registers free; with --slow each, and one between."""
    of = ("--arch", arch, "--dtype", dtype, "--jobs", JOBS, *["--sass"] * (dtype == "fp32"))
    found = reports(tmp_path, *of, "--hidden", *(HIDDEN if whole else HIDDEN[:1]))
    waves = [r["plan"]["hidden"] for r in found if r["plan"]["kind"] == "layers"]
    if waves and whole:  # there `steps` is another kernel
        found += reports(tmp_path, *of, "--fuse", "steps", "--hidden", *map(str, sorted({*waves})))
    for report in found:
        name = assert_is_sound(report)
        by_group = arch == "sm_90" and report["plan"]["k_parts"] == 1
        assert report["loop"]["HGMMA" if by_group else "HMMA"] > 0, name
        if arch == "sm_90" and dtype == "bf16":
            assert report["plan"]["resident_fraction"] == 1, name
            assert report["executed"]["instructions"] >= report["loop"]["instructions"], name
        if dtype == "fp32":
            assert_nothing_streamed_is_rounded(report, name)


@pytest.mark.parametrize(
    "card", [pytest.param("L4", marks=SLOW), pytest.param("RTX 4090", marks=SLOW)]
)
def test_kernels_of_a_card_with_99_kib_here(tmp_path, card):
    """Consumer cards and the L4 have less shared memory: sm_86 and sm_89."""
    of = ("--device", card, "--dtype", "bf16", "fp32", "--jobs", JOBS)
    for report in reports(tmp_path, *of, "--hidden", "200", "650", "1500"):
        name = assert_is_sound(report)
        assert report["shared_memory_limit"] == 99 * 1024, name
        assert report["loop"]["HMMA"] > 0, name


RESIDENT, STREAMED = (200, 90), (1500, 512)


@pytest.mark.parametrize(
    ("arch", "sizes"),
    [
        pytest.param("sm_80", [RESIDENT], marks=SLOW),
        pytest.param("sm_90", [RESIDENT, STREAMED], marks=SLOW),
        pytest.param("sm_100", [STREAMED], marks=SLOW),
    ],
)
def test_projected_kernels_here(tmp_path, arch, sizes):
    """A chain, and a lane whose projection streams in part in TF32."""
    for hidden, projected in sizes:
        of = ("--arch", arch, "--dtype", "bf16", "fp32", "--jobs", JOBS, "--hidden", str(hidden))
        for report in reports(tmp_path, *of, "--proj-size", str(projected)):
            name = assert_is_sound(report)
            forward = report["plan"]["direction"] == "forward"
            assert report["loop"]["acquire"] == (2 if forward else 3), name
            assert report["loop"]["HMMA"] > 0, f"{name}: a tile of 16 rows is a warp's"


@pytest.mark.parametrize(
    "norm",
    [
        pytest.param(False, id="pointwise options"),
        pytest.param(True, id="and layer_norm", marks=SLOW),
    ],
)
@pytest.mark.parametrize(
    ("arch", "hidden"),
    [
        pytest.param("sm_80", 650, marks=SLOW),
        pytest.param("sm_90", 650, marks=SLOW),
        pytest.param("sm_100", 650, marks=SLOW),
    ],
)
def test_a_cell_with_all_options_here(tmp_path, arch, hidden, norm, whole):
    options = ["peephole", "zoneout", "recurrent_dropout"]
    options += ["layer_norm"] * norm
    of = ("--arch", arch, "--dtype", "bf16", *(["fp32"] if whole else []), "--jobs", JOBS)
    for report in reports(tmp_path, *of, "--cell", *options, "--hidden", str(hidden)):
        name = assert_is_sound(report)
        backward = report["plan"]["direction"] == "backward"
        assert report["loop"]["acquire"] == 1 + backward + 2 * norm, name


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["1", "2"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_rows_that_end_or_begin_anew_here(tmp_path, arch, layers):
    """Both take registers: on an H100 a chain of H=650 spilled."""
    of = ("--arch", arch, "--layers", layers, "--rows", "varlen", "resets", "--jobs", JOBS)
    found = reports(tmp_path, *of, "--dtype", "bf16", "fp32", "--hidden", "200", "650", "1500")
    found += reports(tmp_path, *of, "--dtype", "fp64", "--hidden", "64")
    for report in found:
        assert_is_sound(report)


@SLOW
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_dropout_between_layers_here(tmp_path, arch):
    """Under Triton 3.6 each of 8 warps drew the whole mask: 5,290 spills on an A100."""
    for report in reports(tmp_path, "--arch", arch, "--rows", "dropout", "--hidden", "200"):
        name = assert_is_sound(report)
        assert report["loop"]["instructions"] < 2500, name


@pytest.mark.parametrize(
    ("arch", "dtype", "sizes", "core"),
    [
        pytest.param("sm_100", "fp32", ["650"], "UTCHMMA", marks=SLOW),
        pytest.param("sm_100", "bf16", ["650", "1500"], "UTCHMMA", marks=SLOW),
        pytest.param("sm_120", "bf16", ["650"], "HMMA", marks=SLOW),
        pytest.param("sm_120", "fp32", ["650", "1500"], "HMMA", marks=SLOW),
    ],
)
def test_the_newest_architectures_here(tmp_path, arch, dtype, sizes, core):
    of = ("--arch", arch, "--dtype", dtype, "--layers", "1", "--jobs", JOBS)
    for report in reports(tmp_path, *of, "--hidden", *sizes):
        name = assert_is_sound(report)
        assert report["loop"][core] > 0, name


@SLOW  # the PTX machine runs such cells, and finds what is out of order
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_a_cell_with_sums_over_units_here(tmp_path, arch, dtype):
    """A norm's two meetings forwards and one backwards, beside those of h."""
    of = ("--arch", arch, "--dtype", dtype, "--layers", "1", "--jobs", JOBS, "--batch", "20")
    cell = ("--written", "sum_cells:norm_of_c", "--hidden", "650")
    for report in reports(tmp_path, *of, *cell):
        name, direction = assert_is_sound(report), report["plan"]["direction"]
        meetings = {"forward": 3, "backward": 2 + (report["plan"]["split"] > 1)}[direction]
        assert report["loop"]["barrier_gpu"] == report["loop"]["acquire"] == meetings, name


@pytest.mark.slow
def test_a_lane_alone_here(tmp_path, whole):
    """No barrier, and no spill, where a program has all of a lane's weights."""
    of = ("--arch", *["sm_80"] * whole, "sm_90", "--layers", "1", "--jobs", JOBS)
    for report in reports(tmp_path, *of, "--hidden", "128", "--batch", "1024"):
        assert report["plan"]["alone"]
        assert report["loop"]["spills"] == 0
        assert report["loop"]["acquire"] == report["loop"]["barrier_gpu"] == 0
        assert report["shared_memory"] <= report["plan"]["smem"]


def assert_is_sound(report: dict) -> str:
    """What must be true of every kernel that waits; returns its name."""
    name = f"{report['kernel']} at H={report['plan']['hidden']} in {report['plan']['dtype']}"
    assert report["loop"]["spills"] == 0, name
    assert report["shared_memory"] <= report["shared_memory_limit"], name
    assert report["shared_memory"] <= report["plan"]["smem"], f"{name}: plan too low"
    assert report["plan"]["mode"] == "persistent", name
    assert report["loop"]["acquire"] > 0, name
    assert report["order"] == [], name
    assert report["cost"]["floor_us"] > 0, name
    return name


def assert_nothing_streamed_is_rounded(report: dict, name: str) -> None:
    """A step of TF32 rounds what it hands to other programs, and no weight."""
    of, masks = report["plan"], sum("0xffffe000" in line for line in report["sass"])
    handed = of["own"] * of["block_b"] * of["batch_blocks"]  # elements of a program
    handed *= of["gates"] if of["direction"] == "backward" else 1
    assert masks * 32 * of["warps"] == handed, name


@pytest.mark.parametrize(
    "fuse", [pytest.param(fuse, marks=SLOW) for fuse in ("pointwise", "steps", "layers")]
)
def test_every_level_and_the_machine_code(fuse):
    said = run("--fuse", fuse, "--hidden", "64", "--sass", "--dtype", "fp32", "--no-tf32")
    for word in ("registers", "spills", "shared memory", "time loop", "floor"):
        assert word in said
    assert "FFMA" in said
    assert "\nresident: weights that a program keeps" in said
    assert ("why" in said) == (fuse != "pointwise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "sm_70"], "arch: got sm_70; expected one of sm_80, sm_89, sm_90,"),
        (["--arch", "hopper"], "--arch: got hopper; expected such as sm_90"),
        (["--hidden", "0"], "--jobs: got less; expected at least 1"),
        (["--proj-size", "-1"], "--proj-size: got -1; expected at least 0"),
        (["--dtype", "int8"], "invalid choice"),
        (["--written", "no:cell"], "--written: got 'no:cell'"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        sys.exit(inspect.main(arguments))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_one_line(capsys):
    """Before any kernel is compiled."""
    assert inspect.main(["--json", "/nowhere/at/all.json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("fused_lstm.tools.inspect: [Errno 2] No such file")
