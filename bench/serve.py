"""Inference on a CPU, as a model is served: whole calls, and streams of one step a call.

nn.LSTM runs twice: as it is, by oneDNN, which packs all weights at each call; and without oneDNN
(`torch.backends.mkldnn.flags(enabled=False)`), which is the faster one in single steps.
`native-layers` is our module as it is. `native-prepared` is `fused_lstm.prepare` of it: its weights
were packed beforehand, as ONNX Runtime and OpenVINO pack theirs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fused_lstm

from .cases import Case
from .contenders import BASE, OURS, PREPARED, WITHOUT, Contender, entered
from .core import NAMES, Call, Work, forward_only
from .layers import Problem, make_problem, peer, work_of

KNOWN = [
    Contender(BASE, "cudnn"),
    Contender(WITHOUT, "cudnn"),
    Contender(OURS, "native", "layers"),
    Contender(PREPARED, "native"),
    *(Contender(name, name, peer=True) for name in ("onnxruntime", "openvino")),
]
INT8 = Contender("onnxruntime-int8", "onnxruntime-int8", peer=True)
INT8_OF_MODULES = {  # label -> what makes a layer's weights bytes
    "quantize_dynamic": lambda layer: dynamic(layer),  # PyTorch's own
    "native-int8": fused_lstm.quantize,
    "native-int8-weights": partial(fused_lstm.quantize, weight_only=True),
}


def ours(problem: Problem) -> Any:
    """Return this project's module with a problem's weights."""
    return fused_lstm.convert(copy.deepcopy(problem.reference), engine="native").eval()


# --- whole calls ---


def inference(module: nn.Module, problem: Problem, onednn: bool = True) -> Call:
    """Return a module's call, with its own operators or without oneDNN's."""
    x, state = problem.x, problem.state

    @torch.inference_mode()
    def run() -> Any:
        return module(x, state)

    def without() -> Any:
        with torch.backends.mkldnn.flags(enabled=False):
            return run()

    call = run if onednn else without

    def answer() -> dict[str, Tensor]:
        y, last = call()
        found = dict(zip(NAMES, (y, *(last if isinstance(last, tuple) else (last,))), strict=False))
        return {name: t.clone() for name, t in {"inference": y, **found}.items()}

    return Call({"inference": call}, answer, gives=forward_only)


def setup(case: Case, o: Any) -> Work:
    """Return the contenders of a case's inference."""
    problem = make_problem(case, o.device, o.dtype)
    reference = problem.reference.eval()
    local: dict[str, Callable[[], Call]] = {
        BASE: lambda: inference(reference, problem),
        WITHOUT: lambda: inference(reference, problem, onednn=False),
        OURS: lambda: inference(ours(problem), problem),
        PREPARED: lambda: inference(fused_lstm.prepare(ours(problem)), problem),
    }
    able, absent = entered(KNOWN, o, case.name)
    calls = {
        c.label: local.get(c.label) or partial(peer, c, problem, modes=["inference"]) for c in able
    }
    return work_of(problem, calls, absent=absent)


# --- streams ---

CHECKED = 3  # calls, all on one x
Step = Callable[[Tensor], Tensor]  # x [B, I] -> y [B, H]


def stepper(module: nn.Module) -> Step:
    """Return a module called on one step, which is what there is without Streaming."""
    state = None

    @torch.inference_mode()
    def step(x: Tensor) -> Tensor:
        nonlocal state
        y, state = module(x[None], state)
        return y[0]

    return step


def stream(begin: Callable[[], Step], problem: Problem) -> Call:
    """Return a stream's call: a step of one that goes on; the answer is of one begun anew."""
    x, going_on = problem.x[0], begin()

    def answer() -> dict[str, Tensor]:
        step = begin()
        return {"stream": torch.stack([step(x).clone() for _ in range(CHECKED)])}

    return Call({"call": partial(going_on, x)}, answer)


def streams(case: Case, o: Any, begin: Callable[[Problem], dict[str, Any]], peers: Any) -> Work:
    """Return the streams of a case; each must give what nn.LSTM gives on the calls' sequence."""
    problem = make_problem(case.resized("T", 1), o.device)

    def expected() -> dict[str, Tensor]:
        exact = problem.in_dtype(torch.float64)
        with torch.no_grad():
            y, _ = exact.reference(exact.x.expand(CHECKED, -1, -1))
        return {"stream": y.float()}

    calls: dict[str, Callable[[], Call]] = {
        label: partial(stream, start, problem) for label, start in begin(problem).items()
    }
    absent = {}
    for contender, dtype in peers:
        _, why = entered([contender], o, case.name, dtype)
        absent |= why
        if not why:
            calls[contender.label] = partial(peer, contender, problem, dtype, modes=["call"])
    return work_of(problem, calls, expected=expected, absent=absent)


def plain_streams(case: Case, o: Any) -> Work:
    """Return nn.LSTM, the module, `fused_lstm.Streaming` of it, and the runtimes."""

    def begin(problem: Problem) -> dict[str, Any]:
        module = ours(problem)
        return {
            BASE: partial(stepper, problem.reference.eval()),
            "module": partial(stepper, module),
            "streaming": partial(fused_lstm.Streaming, module, case.shape.B),
        }

    return streams(case, o, begin, [(c, "float32") for c in KNOWN if c.peer])


# --- with fewer bits ---


def dynamic(layer: nn.Module) -> nn.Module:
    """Return PyTorch's own quantized layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.LSTM})[0]


def quantized(case: Case, o: Any) -> Work:
    """Return a case's layers: float32 weights in nn.LSTM, int8 in all others."""
    problem = make_problem(case, o.device)

    def of_int8(quantize: Callable[[nn.Module], nn.Module]) -> Call:
        return inference(quantize(copy.deepcopy(problem.reference).eval()), problem)

    calls = {BASE: lambda: inference(problem.reference.eval(), problem)}
    calls |= {label: partial(of_int8, quantize) for label, quantize in INT8_OF_MODULES.items()}
    _, absent = entered([INT8], o, case.name, "int8")
    if not absent:
        calls[INT8.label] = partial(peer, INT8, problem, "int8", modes=["inference"])
    return work_of(problem, calls, absent=absent, rounded_to=torch.bfloat16)


def packed_streams(case: Case, o: Any) -> Work:
    """Return streams through weights packed once in each dtype, and through ONNX Runtime's."""

    def begin(problem: Problem) -> dict[str, Any]:
        module = ours(problem)

        def packed(dtype: torch.dtype) -> Step:
            prepared = fused_lstm.prepare(copy.deepcopy(module), dtype)
            return fused_lstm.Streaming(prepared, case.shape.B)

        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
        found = {f"prepared-{name}": partial(packed, dtype) for name, dtype in dtypes.items()}
        return {BASE: partial(stepper, problem.reference.eval())} | found

    runtime = next(c for c in KNOWN if c.label == "onnxruntime")
    work = streams(case, o, begin, [(runtime, "float32"), (INT8, "int8")])
    work.rounded_to = torch.bfloat16
    return work
