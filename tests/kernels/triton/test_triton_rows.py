"""Programs load only the rows of a block of batch that exist, 16 bytes a thread."""

from __future__ import annotations

import json

import pytest

import fresh

LOADS = """
import json, re
from fused_lstm.tools import inspect
from fused_lstm.triton.devices import DEVICES
from fused_lstm.triton.plan import plan

found = []
for direction in ("forward", "backward"):
    chosen = plan("steps", direction, hidden=200, batch=BATCH, layers=1, dtype="bf16",
                  device=DEVICES["H100"])
    ptx = inspect.compile_plan(chosen, 90).asm["ptx"]
    loads = re.findall(r"^.*ld\\.global\\.cg.*$", ptx, re.M)
    found.append([chosen.masked, len(loads), sum(".v4." in load for load in loads),
                  sum("@%p" in load for load in loads)])
print(json.dumps(found))
"""


@pytest.mark.parametrize("batch", [20, 32])
def test_rows_that_do_not_exist_are_not_loaded(batch):
    """An exchange of 20 rows was read as 32; whole blocks need no mask."""
    found = fresh.python(LOADS.replace("BATCH", str(batch)), TRITON_INTERPRET="0")
    (masked, loads, wide, under_a_mask), (of_backward, *_) = json.loads(found)
    assert masked == of_backward == (batch == 20)
    assert wide == loads > 0
    assert under_a_mask == (loads if masked else 0)
