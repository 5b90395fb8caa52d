"""Two result files side by side: what changed, beside how much each of them wavered."""

from __future__ import annotations

from typing import NamedTuple

from .contenders import BASE
from .measured import Results, Row


class Change(NamedTuple):
    """One case in both files; ratios are speeds as multiples of nn.LSTM's in the same file."""

    before: Row
    after: Row
    ratio_before: float
    ratio_after: float

    @property
    def factor(self) -> float:
        """How many times as fast as before."""
        return self.before.time.median / self.after.time.median

    @property
    def ratio_change(self) -> float:
        """How far its ratio to nn.LSTM moved, as a part of the smaller one."""
        low, high = sorted((self.ratio_before, self.ratio_after))
        return high / low - 1

    @property
    def beyond_noise(self) -> bool:
        """Whether the two quartile ranges do not meet."""
        before, after = self.before.time, self.after.time
        return before.q3 < after.q1 or after.q3 < before.q1


def changes(before: Results, after: Results) -> list[Change]:
    """Every case that both files hold, in the order of `after`."""
    earlier = {(row.group, row.label): row for row in before.rows}
    found = []
    for row in after.rows:
        other = earlier.get((row.group, row.label))
        if other is not None:
            ratios = (r.info["speedup_over_nn_lstm"] for r in (other, row))
            found.append(Change(other, row, *ratios))
    return found


def largest_ratio_change(found: list[Change]) -> Change | None:
    """The case whose ratio against nn.LSTM differs most between the files."""
    others = [c for c in found if c.after.label != BASE]
    return max(others, key=lambda c: c.ratio_change, default=None)


def differences(before: Results, after: Results) -> list[str]:
    """What about the two machines is not the same, in words."""
    lines = []
    for name in ("processor", "cores", "threads", "device", "dtype", "system"):
        old, new = before.machine.get(name), after.machine.get(name)
        if old != new:
            lines.append(f"{name}: {old} before, {new} after")
    old, new = before.machine["libraries"], after.machine["libraries"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            lines.append(f"{name}: {old.get(name, 'none')} before, {new.get(name, 'none')} after")
    return lines
