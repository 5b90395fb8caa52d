"""Inference of a stack of layers on a CPU: nn.LSTM or nn.GRU, ours, ours prepared, two runtimes.

nn.LSTM runs twice: as it is, by oneDNN, which packs all weights at each call; and without oneDNN
(`torch.backends.mkldnn.flags(enabled=False)`), which is the faster one in single steps.

`native-layers` is the module as it is. `native-prepared` is `fused_lstm.prepare` of it: its weights
were packed beforehand, as ONNX Runtime and OpenVINO pack theirs.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm

from .cases import DTYPES
from .contenders import BASE, OURS, PREPARED, Contender, entered
from .core import Run, Runner, Task
from .lstm import Problem, make_problem
from .peers.remote import Remote
from .peers.worker import PAUSE, PAUSED

WITHOUT = "nn.LSTM without oneDNN"
KNOWN = [
    Contender(BASE, "cudnn"),
    Contender(WITHOUT, "cudnn"),
    Contender(OURS, "native", "layers"),
    Contender(PREPARED, "native"),
    *(Contender(name, name, peer=True) for name in ("onnxruntime", "openvino")),
]


INT8 = [
    Contender(BASE, "cudnn"),
    Contender("quantize_dynamic", "cudnn"),  # PyTorch's own
    Contender("native-int8", "native"),
    Contender("native-int8-weights", "native"),
    Contender("onnxruntime-int8", "onnxruntime-int8", peer=True),
]


class Question(Problem):
    """Layers alone, of which outputs are asked and no gradients: at once, or after a pause."""

    modes = ("inference", PAUSED)

    def expected(self) -> dict[str, Tensor]:
        """Return y and the last states."""
        return Local(self.reference, self).answer()


class Rounded(Question):
    """A question of whose products a peer rounds the factors to bytes."""

    products = "int8"


class Local(Runner):
    """A module of this process."""

    modes = ("inference", PAUSED)

    def __init__(self, module: nn.Module, question: Question) -> None:
        self.module, self.x = module.eval(), question.x
        states = question.h0, question.c0
        self.state = question.h0 if question.case.cell == "gru" else states

    @torch.inference_mode()
    def inference(self) -> tuple[Tensor, Any]:
        """Return y and the last state."""
        return self.module(self.x, self.state)

    def answer(self) -> dict[str, Tensor]:
        """Return y and the last states."""
        y, state = self.inference()
        last = state if isinstance(state, tuple) else (state,)
        return {"inference": y.clone()} | {
            name: t.clone() for name, t in zip(("h_n", "c_n"), last, strict=False)
        }

    def work(self, mode: str) -> tuple[Run, Run | None]:
        """Return what is timed, and the pause before it."""
        return self.inference, partial(time.sleep, PAUSE) if mode == PAUSED else None


class WithoutOneDnn(Local):
    """A module of this process whose operators are PyTorch's own."""

    def inference(self) -> tuple[Tensor, Any]:
        """Return y and the last state."""
        with torch.backends.mkldnn.flags(enabled=False):
            return super().inference()


def build_ours(question: Question, prepared: bool) -> Local:
    """Return this project's module with a question's weights."""
    module = fused_lstm.convert(copy.deepcopy(question.reference), engine="native")
    return Local(fused_lstm.prepare(module) if prepared else module, question)


def int8_tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the layers of each case, with float32 weights in nn.LSTM and int8 in all others."""
    for case in suite.cases:
        question = Rounded(**vars(make_problem(case, options.device)))

        def local(quantize: Callable, question: Question = question) -> Local:
            return Local(quantize(copy.deepcopy(question.reference).eval()), question)

        own = {
            BASE: partial(Local, question.reference, question),
            "quantize_dynamic": partial(local, dynamic),
            "native-int8": partial(local, fused_lstm.quantize),
            "native-int8-weights": partial(local, partial(fused_lstm.quantize, weight_only=True)),
        }
        able, whys = entered(INT8, options, case.name, "int8")
        build = {c.label: own.get(c.label) or partial(Remote, c, question) for c in able}
        yield Task(case.name, question, build, whys, rounded_to=torch.bfloat16)


def dynamic(layer: nn.Module) -> nn.Module:
    """Return PyTorch's own quantized layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.LSTM})[0]


def tasks(suite: Any, options: Any) -> Iterator[Task]:
    """Yield the layers of each case and dtype."""
    for case in suite.cases:
        for dtype in suite.dtypes:
            question = Question(**vars(make_problem(case, options.device, DTYPES[dtype])))
            own: dict[str, Callable[[], Any]] = {
                BASE: partial(Local, question.reference, question),
                WITHOUT: partial(WithoutOneDnn, question.reference, question),
                OURS: partial(build_ours, question, False),
                PREPARED: partial(build_ours, question, True),
            }
            able, whys = entered(KNOWN, options, case.name, dtype)
            build = {c.label: own.get(c.label) or partial(Remote, c, question) for c in able}
            yield Task(case.name, question, build, whys, dtype)
