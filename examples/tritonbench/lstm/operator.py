"""An LSTM as an operator of TritonBench (meta-pytorch/tritonbench): nn.LSTM and fused_lstm.

The folder `lstm` goes into tritonbench/operators of a clone, where fused_lstm is installed:

    cp -r examples/tritonbench/lstm tritonbench/tritonbench/operators
    cd tritonbench && python run.py --op lstm --metrics latency,speedup,tflops,accuracy

nn.LSTM is the baseline: cuDNN on a GPU. `fused_lstm` is this library's engine for the device, on a
GPU Triton's kernels, and each of its levels of fusion is a row. --device cpu, --precision bf16,
--bwd and --fwd-bwd are TritonBench's own. `--hidden-size 650 --batch 20` chooses other inputs.

T, B, I, H, L: time steps, batch, input size, hidden size, layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tritonbench.utils.triton_op import (
    BenchmarkOperator,
    BenchmarkOperatorMetrics,
    Mode,
    register_benchmark,
    register_metric,
    register_x_val,
)

import fused_lstm

# T, B, H, L: the post's three models, a short call, FlashRNN's shape.
SHAPES = [
    (20, 20, 200, 2), (35, 20, 650, 2), (35, 20, 1500, 2), (1, 1, 650, 2), (1024, 16, 768, 1),
]  # fmt: skip
ENGINES = {"cpu": "native", "cuda": "triton"}
# By dtype: the largest difference allowed, as a part of the largest right value.
ALLOWED = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def close(ours: Tensor, right: Tensor) -> bool:
    """Return whether a result is right except for rounding."""
    difference = (ours.float() - right.float()).abs().max()
    return bool(difference <= ALLOWED[right.dtype] * right.float().abs().max())


class Operator(BenchmarkOperator):
    """A stack of LSTM layers, forward and backward, on one input x [T, B, H]."""

    DEFAULT_METRICS: ClassVar = ["latency", "speedup", "accuracy"]
    DEFAULT_PRECISION = "fp32"
    FWD_ONLY = False

    def __init__(self, tb_args: argparse.Namespace, extra_args: list[str] | None = None) -> None:
        super().__init__(tb_args, extra_args)
        parser = argparse.ArgumentParser(add_help=False)
        for name in ("--time-steps", "--batch", "--hidden-size", "--layers"):
            parser.add_argument(name, type=int)
        options = parser.parse_args(extra_args or [])
        asked = options.time_steps, options.batch, options.hidden_size, options.layers
        default = SHAPES[1]
        own = tuple(a or d for a, d in zip(asked, default, strict=True))
        self.shapes = SHAPES if asked == (None,) * 4 else [own]

    def get_input_iter(self) -> Generator:
        """Yield x [T, B, H] and an nn.LSTM, whose weights every benchmark has."""
        for T, B, H, L in self.shapes:
            torch.manual_seed(0)
            layer = nn.LSTM(H, H, L, device=self.device, dtype=self.dtype)
            x = torch.randn(T, B, H, device=self.device, dtype=self.dtype)
            yield x.requires_grad_(), layer

    @register_benchmark(baseline=True)
    def nn_lstm(self, x: Tensor, layer: nn.LSTM) -> Callable[[], Tensor]:
        """Return a call of PyTorch's own layer."""
        return lambda: layer(x)[0]

    def of_level(self, x: Tensor, layer: nn.LSTM, fuse: str | None) -> Callable[[], Tensor]:
        """Return a call of fused_lstm with a layer's weights at a level of fusion."""
        engine = ENGINES[torch.device(self.device).type]
        ours = fused_lstm.LSTM(
            layer.input_size, layer.hidden_size, layer.num_layers, engine=engine, fuse=fuse,
            device=self.device, dtype=self.dtype,
        )  # fmt: skip
        ours.load_state_dict(layer.state_dict())
        return lambda: ours(x)[0]

    @register_benchmark()
    def fused_lstm(self, x: Tensor, layer: nn.LSTM) -> Callable[[], Tensor]:
        """Return a call at the highest level: one launch runs all layers."""
        return self.of_level(x, layer, None)

    @register_benchmark()
    def fused_lstm_steps(self, x: Tensor, layer: nn.LSTM) -> Callable[[], Tensor]:
        """Return a call in which one launch runs all time steps of a layer."""
        return self.of_level(x, layer, "steps")

    @register_benchmark()
    def fused_lstm_hoisted(self, x: Tensor, layer: nn.LSTM) -> Callable[[], Tensor]:
        """Return a call with one input product for all steps, and a step a launch."""
        return self.of_level(x, layer, "hoisted")

    @register_benchmark()
    def fused_lstm_pointwise(self, x: Tensor, layer: nn.LSTM) -> Callable[[], Tensor]:
        """Return a call in which one launch computes all pointwise operations of a step."""
        return self.of_level(x, layer, "pointwise")

    def get_bwd_fn(self, fwd_fn: Callable[[], Tensor]) -> Callable[[], None]:
        """Return a backward of all outputs."""
        y = fwd_fn()
        torch.manual_seed(0)
        dy = torch.randn_like(y)
        return lambda: y.backward(dy, retain_graph=True)

    def accuracy(self, fn: Callable[[], Any], baseline_fn: Callable[[], Any]) -> bool:
        """Return whether two calls have equal outputs, or equal gradients of x where they train."""
        if self.mode in (Mode.FWD, Mode.FWD_NO_GRAD):
            return close(fn(), baseline_fn())
        x, gradients = self.example_inputs[0], []
        for call in fn, baseline_fn:
            x.grad = None
            call()
            gradients.append(x.grad.clone())
        return close(*gradients)

    def get_grad_to_none(self, args: Any) -> list[Tensor]:
        """Return what a backward adds gradients to."""
        x, layer = args
        return [x, *layer.parameters()]

    @register_x_val(label="T, B, H, L")
    def get_x_val(self, example_inputs: Any) -> str:
        """Return the shape of an input."""
        x, layer = example_inputs
        return f"({x.shape[0]}, {x.shape[1]}, {layer.hidden_size}, {layer.num_layers})"

    @register_metric()
    def flops(self, fn_name: str, example_inputs: Any, metrics: BenchmarkOperatorMetrics) -> float:
        """Return the products' floating-point operations: 2 a multiply-add, both matrices."""
        x, layer = example_inputs
        T, B, H = x.shape
        forward = 2.0 * T * B * layer.num_layers * 4 * H * 2 * H
        return forward * {Mode.BWD: 2, Mode.FWD_BWD: 3}.get(self.mode, 1)
