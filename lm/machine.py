"""The machine: its name, its device and what runs there, and the versions of its libraries."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from pathlib import Path

import torch

from fused_lstm.engines import resolve
from lm.config import Config
from lm.errors import UserError, reason

_NUMBERS = {"cpu family": "family", "model": "model"}
# --precision -> what the switches call it: 24 bits, TensorFloat-32's 11, bfloat16's 8.
PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


def processor(device: torch.device) -> str:
    """The name of the accelerator that `device` is, or of the CPU."""
    if device.type == "cpu":
        return _cpu_name()
    module = torch.get_device_module(device)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)


def _cpu_name() -> str:
    """With family and model, where Linux tells them: a virtual machine's name is often less."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    found = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = found.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{word} {found[f]}" for f, word in _NUMBERS.items() if found.get(f)]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def version(package: str) -> str | None:
    """Of what is installed; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Of PyTorch and of Triton."""
    return {"torch_version": torch.__version__, "triton_version": version("triton")}


def open_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The device called `name`, or this machine's accelerator, or its CPU.

    `local_rank` is this process's number among those on the machine, and its accelerator's, where
    `name` has no number.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    kinds = ["cpu"] if accelerator is None else [accelerator.type, "cpu"]
    try:
        with warnings.catch_warnings(action="ignore"):  # of kinds that PyTorch has given up
            device = torch.device(kinds[0] if name is None else name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: {reason(error)}") from None
    if device.type not in kinds:
        here = " and ".join(kinds)
        raise UserError(f"--device {name}: PyTorch finds no {device.type} here, but {here}")
    if device.type == "cpu":
        return torch.device("cpu")  # which has no number
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError) as error:  # PyTorch raises either
        raise UserError(f"--device {name}: {reason(error)}") from None
    if torch.accelerator.device_count() < 2:
        return device
    index = local_rank % torch.accelerator.device_count() if device.index is None else device.index
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


def check_engine(config: Config, lstm: str, fuse: str | None, device: torch.device) -> None:
    """UserError where the engine cannot run such a model on `device`."""
    try:
        resolve(lstm, fuse, device, config.cell())
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from None


def set_precision(word: str) -> None:
    """Allow float32 products to round their factors, for the rest of the process.

    The word is `torch.set_float32_matmul_precision`'s, which decides for the softmax layer; the
    LSTM has switches of its own. Where hardware has nothing faster, products stay exact.
    """
    switch = PRECISIONS[word]
    torch.set_float32_matmul_precision(word)
    # cuDNN's knows no bfloat16.
    for library, own in ("mkldnn", switch), ("cudnn", "ieee" if switch == "ieee" else "tf32"):
        getattr(torch.backends, library).rnn.fp32_precision = own
