"""A suite's own contender in a process of its own, on another checkout's fused_lstm or this one's.

The process imports the library that PYTHONPATH names first, so that two checkouts take turns like
any two systems (`python -m bench SUITE --before CHECKOUT`).
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import torch


class Contender:
    """A call of a suite's part: `label` in its case of a number, in a dtype."""

    def __init__(self, asked: dict[str, np.ndarray], threads: int) -> None:
        from .. import suites
        from ..cases import DTYPES, choose

        torch.set_num_threads(threads)
        text = {name: str(value) for name, value in asked.items()}
        (part,) = suites.parts(text["part"]).values()
        o = Namespace(device=torch.device(text["device"]), dtype=DTYPES[text["of"]], folder=None,
            engines=text["engines"] or None, quick=False, modes=part.modes,
            contenders=part.contenders)  # fmt: skip
        cases = part.cases(o) if callable(part.cases) else part.cases
        (case,) = choose([text["case"]], cases)
        self.call = part.setup(case, o).calls[text["label"]]()

    def turn(self, mode: str, *how: Any) -> list[float]:
        """Take a turn in a mode."""
        with self.call.under():
            return self.call.turn(mode)(*how)

    def answer(self) -> dict[str, np.ndarray]:
        """Return the call's answer."""
        with self.call.under():
            found = self.call.answer()
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in found.items()}


build = Contender
