"""The part that peers which are PyTorch extensions share: layers in turn on one GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from .gates import layers


class TorchStack(ABC):
    """A stack of layers of one library, with PyTorch's weights under PyTorch's names."""

    def __init__(self, problem: dict[str, np.ndarray]) -> None:
        torch.backends.cuda.matmul.allow_tf32 = bool(problem["tf32"])
        dtype = getattr(torch, str(problem["dtype"]))

        def on_gpu(name: str) -> Tensor:
            return torch.from_numpy(problem[name]).to("cuda", dtype)

        self.x = on_gpu("x").requires_grad_()
        self.h0, self.c0, self.dy = on_gpu("h0"), on_gpu("c0"), on_gpu("dy")
        resets = problem.get("resets")  # [T, B]: where an episode begins
        self.resets = None if resets is None else torch.from_numpy(resets)
        self.names = [f"{k}_l{l}" for l, layer in enumerate(layers(problem)) for k in layer]
        self.weights = {name: on_gpu(name).requires_grad_() for name in self.names}

    @abstractmethod
    def layer(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map x [T, B, I or H] to y [T, B, H], h and c of the last step [B, H]."""

    def weight(self, kind: str, index: int) -> Tensor:
        return self.weights[f"{kind}_l{index}"]

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        x, h_n, c_n = self.x, [], []
        for index in range(len(self.h0)):
            x, h, c = self.layer(index, x)
            h_n.append(h)
            c_n.append(c)
        return x, torch.stack(h_n), torch.stack(c_n)

    def step(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        outputs = self.forward()
        wanted = [self.x, *self.weights.values()]
        gradients = torch.autograd.grad(outputs[0], wanted, self.dy)
        torch.cuda.synchronize()
        return outputs, gradients

    def inference(self) -> Tensor:
        with torch.no_grad():
            y, _, _ = self.forward()
        torch.cuda.synchronize()
        return y

    def answer(self) -> dict[str, np.ndarray]:
        (y, h_n, c_n), (dx, *rest) = self.step()
        found = {"y": y, "h_n": h_n, "c_n": c_n, "x.grad": dx, "inference": self.inference()}
        found |= {f"{name}.grad": g for name, g in zip(self.names, rest, strict=True)}
        return {name: t.detach().float().cpu().numpy() for name, t in found.items()}
