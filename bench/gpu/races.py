"""What is raced on a GPU, in the order of its worth: what there is no time for is at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..cases import CASES, Shape
from ..lstm import GRAPH

PRECISIONS = {  # dtype, and whether products of float32 may round their factors to TF32
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
}
# With and without a CUDA graph: events around an eager call time the host too.
MODES = ("forward", "step", "forward" + GRAPH, "step" + GRAPH)


@dataclass(frozen=True)
class GpuRace:
    """One race. `published`: what others measured at this shape."""

    name: str
    precision: str
    shape: tuple[int, int, int, int, int]
    published: str = ""


def races() -> list[GpuRace]:
    """Return FlashRNN's shape, Penn Treebank's, more where cuDNN's persistent kernel runs."""
    flash = GpuRace(
        "FlashRNN's", "fp16", tuple(CASES["flashrnn"].shape),
        "cuDNN 2.01 ms forward, 5.19 ms step on an H100 (FlashRNN's paper)",
    )  # fmt: skip
    treebank = [
        GpuRace(size, precision, tuple(CASES[size].shape))
        for precision in ("bf16", "tf32", "fp16", "fp32")
        for size in ("medium", "large", "small")
    ]
    home = [(H, B) for B in (16, 64) for H in (1024, 512)]
    return [
        flash,
        *treebank,
        *(GpuRace(f"H={H} B={B}", "fp16", (1024, B, H, H, 1)) for H, B in home),
    ]


def cudnn_algorithms(shape: Shape, precision: str) -> str:
    """Return which of cuDNN's algorithms nn.LSTM asks for, as RNN.cpp of ATen does.

    PERSIST_STATIC_SMALL_H: any depth, H up to 192 forward and 128 backward. PERSIST_STATIC:
    float16, one layer, H up to 1024, H and I divisible by 128, B by 8 and up to 128 (not on sm_86).
    """
    _, B, I, H, L = shape
    multiples = H % 128 == 0 and I % 128 == 0 and B % 8 == 0
    large = precision == "fp16" and L == 1 and multiples and H <= 1024 and B <= 128
    other = "PERSIST_STATIC" if large else "STANDARD"
    forward, backward = ("PERSIST_STATIC_SMALL_H" if top >= H else other for top in (192, 128))
    return forward if forward == backward else f"{forward} forward, {backward} backward"
