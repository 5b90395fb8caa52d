"""The machine: its device, the engine that runs there, its name, and its libraries' versions."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import warnings
from pathlib import Path

import torch

from fused_lstm import native
from fused_lstm.call.choose import choose
from lm.command import UserError, reason
from lm.settings import PRECISIONS, Config


def open_device(name: str | None, local_rank: int = 0) -> torch.device:
    """Return the device called `name`, or this machine's accelerator, or its CPU.

    `local_rank` is this process's number among those on the machine, and its accelerator's, where
    `name` has no number. Raises UserError where there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    try:
        with warnings.catch_warnings(action="ignore"):  # of kinds that PyTorch has given up
            device = torch.device(name or accelerator or "cpu")
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError) as error:  # PyTorch raises either
        raise UserError(f"--device {name}: {reason(error)}") from None
    if device.type == "cpu":
        return torch.device("cpu")  # which has no number
    if device.index is None:
        device = torch.device(device.type, local_rank % torch.accelerator.device_count())
    torch.accelerator.set_device_index(device.index)
    return device


def choose_engine(
    config: Config, lstm: str, fuse: str | None, device: torch.device
) -> tuple[str, str | None]:
    """Return the engine and the level that run such a model on `device`; UserError if none can."""
    try:
        return choose(lstm, fuse, device, config.spec())[:2]
    except (RuntimeError, ValueError) as error:
        argument, _, rest = str(error).partition(":")
        option = {"engine": "--lstm", "fuse": "--fuse"}.get(argument)
        if option is None:
            raise UserError(str(error)) from None
        raise UserError(f"{option}:{rest.replace('None', 'no --fuse')}") from None


def set_precision(word: str) -> None:
    """Allow float32 products to round their factors, for the rest of the process.

    The word is `torch.set_float32_matmul_precision`'s, which decides for the softmax layer; the
    LSTM has switches of its own. Where hardware has nothing faster, products stay exact.
    """
    switch = PRECISIONS[word]
    torch.set_float32_matmul_precision(word)
    # cuDNN's knows no bfloat16.
    for library, value in ("mkldnn", switch), ("cudnn", "ieee" if switch == "ieee" else "tf32"):
        getattr(torch.backends, library).rnn.fp32_precision = value


def processor(device: torch.device) -> str:
    """Return the name of the accelerator that `device` is, or of the CPU."""
    if device.type != "cpu":
        module = torch.get_device_module(device)
        return module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        text = ""
    fields = dict(re.findall(r"^(.+?)\s*: (.+)$", text, re.MULTILINE))
    name = fields.get("model name") or platform.processor() or platform.machine()
    # A virtual machine's name is often less than its family and model.
    words = {"cpu family": "family", "model": "model"}
    numbers = [f"{word} {fields[field]}" for field, word in words.items() if field in fields]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def instructions() -> str:
    """Return the CPU's instruction sets that PyTorch and engine `native` use: "AVX512, avx512"."""
    ours = [] if native.load() is not None else [native.OPS.isa()]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *ours])


def versions() -> dict[str, str | None]:
    """Return the versions of PyTorch and, where it is installed, of Triton."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    return {"torch_version": torch.__version__, "triton_version": triton}
