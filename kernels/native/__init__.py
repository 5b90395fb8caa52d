"""Engine `native`: the same fusions in C++ for the CPU."""

from __future__ import annotations

import torch


def missing(device: torch.device) -> str | None:
    return "its C++ extension is not built"
