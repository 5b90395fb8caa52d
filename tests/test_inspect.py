"""fused_lstm.inspect: what it reads from machine code, and what must be true of the kernels."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fused_lstm import inspect

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
    code = inspect.instructions(SASS)
    assert len(code) == 14
    assert inspect.time_loop(code) == (0x20, 0xB0)
    assert inspect.time_loop(code[:3]) is None


def test_what_is_counted():
    code = inspect.instructions(SASS)
    assert inspect.count(code)["spills"] == 2
    loop = inspect.count([line for line in code if 0x20 <= line[0] <= 0xB0])
    assert loop["spills"] == 1
    assert loop["HGMMA"] == 1
    assert (loop["barrier_cta"], loop["barrier_gpu"], loop["acquire"]) == (1, 1, 1)


def run(*arguments: str) -> subprocess.CompletedProcess:
    """The command, in a process of its own: this one may hold the interpreter."""
    command = [sys.executable, "-m", "fused_lstm.inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def reports(tmp_path, *arguments: str) -> list[dict]:
    path = tmp_path / "reports.json"
    done = run(*arguments, "--json", str(path))
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


# A part of the matrix, for time; all of it is in bench/results/inspect-*.json (see docs/gpu.md).
@pytest.mark.parametrize(
    ("arch", "dtype", "hidden", "layers", "product"),
    [
        ("sm_90", "bf16", (200, 650, 1500), 2, "HGMMA"),
        ("sm_90", "bf16", (1024,), 1, "HGMMA"),
        ("sm_90", "fp32", (1500,), 1, "HGMMA"),
        ("sm_80", "bf16", (650, 1500), 1, "HMMA"),
        ("sm_100", "bf16", (1500,), 1, "UTCHMMA"),
    ],
    ids=lambda value: str(value).replace(", ", "+"),
)
def test_kernels_on_a_gpu_that_is_not_here(tmp_path, arch, dtype, hidden, layers, product):
    found = reports(
        tmp_path, "--arch", arch, "--dtype", dtype, "--layers", str(layers),
        "--hidden", *map(str, hidden),
    )  # fmt: skip
    assert len(found) == 2 * len(hidden)
    for report in found:
        name = f"{report['kernel']} at H={report['plan']['hidden']}"
        assert report["loop"]["spills"] == 0, name
        assert report["loop"][product] > 0, name
        assert report["shared_memory"] <= report["shared_memory_limit"], name
        assert report["shared_memory"] <= report["plan"]["smem"], f"{name}: plan too low"
        assert report["plan"]["mode"] == "persistent", name
        assert report["loop"]["acquire"] > 0, name
        assert report["cost"]["floor_us"] > 0, name
        if arch == "sm_90" and dtype == "bf16":
            assert report["plan"]["resident_fraction"] == 1, name


@pytest.mark.parametrize("fuse", ["pointwise", "steps", "layers"])
def test_every_level_and_the_machine_code(fuse):
    done = run("--fuse", fuse, "--hidden", "64", "--sass", "--dtype", "fp32", "--no-tf32")
    assert done.returncode == 0, done.stderr
    for word in ("registers", "spills", "shared memory", "time loop", "floor"):
        assert word in done.stdout
    assert "FFMA" in done.stdout
    assert ("why" in done.stdout) == (fuse != "pointwise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "sm_70"], "arch must be one of sm_80, sm_89, sm_90, sm_100, got sm_70"),
        (["--arch", "hopper"], "--arch must be like sm_90, got hopper"),
        (["--hidden", "0"], "must be at least 1"),
        (["--dtype", "int8"], "invalid choice"),
        (["--json", "/nowhere/at/all.json", "--hidden", "16"], "No such file"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_arguments_are_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
