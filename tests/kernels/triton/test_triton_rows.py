"""Programs load only the rows of a block of batch that exist, 16 bytes a thread."""

from __future__ import annotations

import json

import fresh

LOADS = """
import json, re
from fused_lstm.tools import inspect
from fused_lstm.triton.devices import DEVICES
from fused_lstm.triton.plan import plan

found = []
for batch in (20, 32):
    masked = [
        plan("steps", direction, hidden=200, batch=batch, layers=1, dtype="bf16",
             device=DEVICES["H100"])
        for direction in ("forward", "backward")
    ]
    ptx = inspect.compile_plan(masked[0], 90).asm["ptx"]
    loads = re.findall(r"^.*ld\\.global\\.cg.*$", ptx, re.M)
    found.append([[chosen.masked for chosen in masked], len(loads),
                  sum(".v4." in load for load in loads), sum("@%p" in load for load in loads)])
print(json.dumps(found))
"""


def test_rows_that_do_not_exist_are_not_loaded():
    """An exchange of 20 rows was read as 32; whole blocks need no mask."""
    found = json.loads(fresh.python(LOADS, TRITON_INTERPRET="0"))
    for masks, (masked, loads, wide, under_a_mask) in zip((True, False), found, strict=True):
        assert masked == [masks, masks]
        assert wide == loads > 0
        assert under_a_mask == (loads if masks else 0)
