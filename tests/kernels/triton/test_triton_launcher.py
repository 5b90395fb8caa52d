"""Triton's own launcher gives a kernel the parameters, the grid and the block that a plan has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fresh

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def launches(tmp_path_factory) -> list[dict]:
    """Return what tests/launcher.py says, of a process of its own."""
    pytest.importorskip("triton")
    folder: Path = tmp_path_factory.mktemp("libcuda")
    script = f"import launcher; launcher.main({str(folder)!r})"
    return json.loads(fresh.python(script, TRITON_INTERPRET="0", TRITON_DEFAULT_FP_FUSION="1"))


def test_each_parameter_is_where_the_kernel_reads_it(launches):
    """Addresses as numbers, tuples one by one, None left out, and two of scratch memory."""
    assert len(launches) == 14
    for one in launches:
        assert (one["launches"], one["asked"]) == (1, 0), one["name"]
        assert one["parameters"] == one["expected"], one["name"]


def test_the_grid_is_the_plans_and_cooperative_where_programs_meet(launches):
    for one in launches:
        programs, threads, smem, meets = one["planned"]
        assert one["grid"] == [programs, 1, 1], one["name"]
        assert (one["block"], one["smem"]) == (threads, smem), one["name"]
        assert one["cooperative"] == meets, one["name"]
    assert {one["cooperative"] for one in launches} == {0, 1}
    assert len({one["smem"] for one in launches}) > 1  # 0 of a kernel whose body was dropped
