"""Parts of a training step's time, ours beside stock PyTorch's.

A step of the language model on the native engine, and the post's program with nn.LSTM, both under
torch.profiler: the time of each operator, those that are called by another counted with it, summed
by what they are for. What no named operator took is Python, autograd and torch's small ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from .contenders import trainers
from .core import Record, surroundings
from .counts import quiet
from .training import Learner, make_lesson

WHO = ("native-layers", "stock-cudnn")
STEPS = 15  # that are profiled
STEP = "a training step"
BACKWARD = "autograd::engine::evaluate_function: "
NATIVE = "fused_lstm_native::"

# What for -> the operators, of either program.
PARTS = {
    "embedding": ("aten::embedding",),
    "embedding, backward": (f"{BACKWARD}EmbeddingBackward0", "aten::coalesce"),
    "dropout": (f"{NATIVE}dropout", "aten::dropout", f"{BACKWARD}MulBackward0"),
    "LSTM, forward": (f"{NATIVE}lstm", "aten::lstm"),
    "LSTM, backward": (f"{NATIVE}lstm_backward", f"{BACKWARD}MkldnnRnnLayerBackward0"),
    "softmax layer and loss": (
        *(f"{NATIVE}linear_cross_entropy", "aten::linear", "aten::cross_entropy_loss"),
        *(f"{BACKWARD}{name}Backward0" for name in ("Addmm", "T", "LogSoftmax", "NllLoss")),
    ),
    "casts": ("aten::to", f"{BACKWARD}ToCopyBackward0"),
    "norm and clip": ("aten::_foreach_norm", "aten::_foreach_mul_"),
    "update": ("aten::_fused_sgd_", "aten::_foreach_add_", "aten::add_"),
    "gradients kept, freed": (
        "torch::autograd::AccumulateGrad",
        "Optimizer.zero_grad#SGD.zero_grad",
    ),
}
OF = {name: part for part, names in PARTS.items() for name in names}
REST = "the rest"


def parts_of(learner: Learner) -> dict[str, list[float]]:
    """Return the seconds of each part in each of some steps; their sum is a step's."""
    for _ in range(2):
        learner.step()
    seconds: dict[str, list[float]] = {part: [] for part in (*PARTS, REST)}
    for _ in range(STEPS):
        recording = profile(activities=[ProfilerActivity.CPU])
        with quiet(), recording as profiled, record_function(STEP):
            learner.step()
        times = dict.fromkeys(seconds, 0.0)
        for event in profiled.events():
            if event.name == STEP:
                times[REST] += event.cpu_time_total
            elif event.name in OF and not _inside(event):
                times[OF[event.name]] += event.cpu_time_total
                times[REST] -= event.cpu_time_total
        for part, time in times.items():
            seconds[part].append(time / 1e6)
    return seconds


def _inside(event: torch.autograd.profiler_util.FunctionEvent) -> bool:
    """Return whether an operator that has a part has called this one."""
    caller = event.cpu_parent
    while caller is not None:
        if caller.name in OF:
            return True
        caller = caller.cpu_parent
    return False


def run(name: str, suite: Any, options: Any) -> Iterator[Record]:
    """Yield a record for each part of a step: its seconds in each of some steps."""
    autocast = None if options.dtype in (None, "float32") else torch.bfloat16
    for case in suite.cases:
        lesson = make_lesson(case.name, autocast=autocast)
        common = surroundings(lesson.device) | {"threads": torch.get_num_threads()}
        common |= {"dtype": options.dtype or "float32", "extra": {"shape": case.shape._asdict()}}
        for contender in (c for c in trainers() if c.label in WHO):
            for part, seconds in parts_of(Learner(contender, lesson)).items():
                yield Record(name, case.name, contender.label, part, tuple(seconds), **common)
