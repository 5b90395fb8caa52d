"""What the Triton kernels still read of a cell: to go once they read a Spec."""

from __future__ import annotations

from collections.abc import Sequence

from .spec import CANDIDATE, RECURRENT, ZONEOUT_C, ZONEOUT_H, Spec

__all__ = ["CANDIDATE", "RECURRENT", "ZONEOUT_C", "ZONEOUT_H", "Cell", "PLAIN", "GRU"]


class Cell(Spec):
    """A Spec's cell and options, by the names of fused_lstm.triton."""

    @property
    def gru(self) -> bool:
        return self.cell == "gru"

    @property
    def on(self) -> tuple[str, ...]:
        return self.options or (("gru",) if self.gru else ())

    @staticmethod
    def of_arguments(cell: str = "", rates: Sequence[float] = ()) -> Cell:
        """Return the one that an operator is told."""
        z_h, z_c, recurrent, candidate = rates or (0.0,) * 4
        names = cell.split(",") if cell else []
        kind = "gru" if "gru" in names else "lstm"
        options = {name: True for name in names if name != "gru"}
        drops = {"recurrent_dropout": recurrent, "candidate_dropout": candidate}
        return Cell(kind, **options, zoneout=(z_h, z_c), **drops)


PLAIN, GRU = Cell(), Cell("gru")
