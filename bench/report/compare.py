"""Two result files side by side: what changed, beside how much each of them wavered."""

from __future__ import annotations

from typing import NamedTuple

from . import style
from .markup import Block, Heading, Table, Text
from .results import BASE, Results, Row


class Change(NamedTuple):
    """One case in both files."""

    before: Row
    after: Row

    @property
    def factor(self) -> float:
        """How many times as fast as before."""
        return self.before.time.median / self.after.time.median

    @property
    def ratios(self) -> tuple[float, float]:
        """Speeds as multiples of nn.LSTM's in the same file."""
        return tuple(row.info["speedup_over_nn_lstm"] for row in self)

    @property
    def ratio_change(self) -> float:
        """How far its ratio to nn.LSTM moved, as a part of the smaller one."""
        low, high = sorted(self.ratios)
        return high / low - 1

    @property
    def beyond_noise(self) -> bool:
        """Whether the two quartile ranges do not meet."""
        before, after = self.before.time, self.after.time
        return before.q3 < after.q1 or after.q3 < before.q1


def changes(before: Results, after: Results) -> list[Change]:
    """Every case that both files hold, in the order of `after`."""
    earlier = {(row.group, row.label): row for row in before.rows}
    pairs = ((earlier.get((row.group, row.label)), row) for row in after.rows)
    return [Change(old, new) for old, new in pairs if old is not None]


def differences(before: Results, after: Results) -> list[str]:
    """What about the two machines is not the same, in words."""
    names = ("processor", "cores", "threads", "device", "dtype", "system")
    old, new = ({n: r.machine.get(n) for n in names} for r in (before, after))
    libraries = [r.machine["libraries"] for r in (before, after)]
    for name in sorted(libraries[0].keys() | libraries[1].keys()):
        old[name], new[name] = (found.get(name, "none") for found in libraries)
    return [f"{n}: {old[n]} before, {new[n]} after" for n in old if old[n] != new[n]]


def comparison(before: Results, after: Results) -> list[Block]:
    found = changes(before, after)
    blocks: list[Block] = [Heading(f"{before.name} (before) and {after.name} (after)")]
    if not found:
        return [*blocks, Text("The two files have no case in common.")]
    blocks += [Text(f"Not the same: {line}.") for line in differences(before, after)]
    others = [c for c in found if c.after.label != BASE]
    if others:
        worst = max(others, key=lambda c: c.ratio_change)
        was, now = worst.ratios
        said = (
            f"{len(found)} cases in both. The ratio against nn.LSTM that moved most is"
            f" {worst.after.label} in {worst.after.group}: {was:.2f} before, {now:.2f} after,"
            f" {100 * worst.ratio_change:.0f}% apart."
        )
        blocks.append(Text(said))
    header = ("case", "before, ms", "after, ms", "x", "noise of each")
    header += ("x nn.LSTM before", "after", "verdict")
    note = "Noise: half the distance of the quartiles. A change counts where quartile ranges part."
    return [*blocks, Table(header, [_cells(c) for c in found], note)]


def _cells(c: Change) -> list[str]:
    times = [style.milliseconds(row.time.median) for row in c]
    noise = ", ".join(f"{100 * row.noise:.0f}%" for row in c)
    verdict = ("faster" if c.factor > 1 else "slower") if c.beyond_noise else "within noise"
    ratios = [f"{ratio:.2f}" for ratio in c.ratios]
    case = f"{c.after.group}: {style.name(c.after)}"
    return [case, *times, f"{c.factor:.2f}", noise, *ratios, verdict]
