"""A driver for Triton that does nothing: every launch is prepared and compiled, and none is made.

So any machine compiles, into Triton's cache, what a GPU of any kind would; and tests count what
the host does around a launch. It takes over a process for good.
"""

from __future__ import annotations

from typing import Any

import torch

LAUNCHES: list[dict[str, Any]] = []  # of each launch kernel, grid, cooperative, function
COMPILED: list[str] = []  # kernels that no cache had: count_compilations


class _Launcher:
    def __init__(self, src: Any, metadata: Any) -> None:
        self.name, self.cooperative = metadata.name, metadata.launch_cooperative_grid

    def __call__(self, *arguments: Any, **_: Any) -> None:
        grid, (_, function) = tuple(arguments[:3]), arguments[3:5]
        LAUNCHES.append({
            "kernel": self.name, "grid": grid, "cooperative": self.cooperative,
            "function": function,
        })  # fmt: skip


class _Utils:
    """The answers that Triton wants of a GPU when it loads a kernel."""

    def __init__(self, device: Any) -> None:
        self.is_amd = device.gfx != ""
        self.properties = {
            "max_shared_mem": device.smem, "multiprocessor_count": device.sms,
            "warpSize": device.wave, "max_num_regs": 65536,
        }  # fmt: skip

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple:
        from fused_lstm.tools.inspect import thread

        # A kernel that spills is compiled again, on a GPU as here. An AMD's is not read.
        spills = 0 if self.is_amd else thread(binary)[1] // 4
        return 1, 2, 255, spills, 1024  # module, function, registers, spills, threads at most

    def unload_module(self, *_: Any) -> None: ...

    def get_device_properties(self, _: int) -> dict[str, int]:
        return self.properties


class _Driver:
    launcher_cls = _Launcher

    def __init__(self, device: Any) -> None:
        from triton.backends.compiler import GPUTarget

        kind = ("hip", device.gfx) if device.gfx else ("cuda", device.arch)
        self.target, self.utils = GPUTarget(*kind, device.wave), _Utils(device)

    def get_current_target(self):
        return self.target

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, _: int) -> None: ...

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self):
        return torch.cuda

    def is_active(self) -> bool:
        return True

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind

    def assemble_tensormap_to_arg(self, *_: Any) -> None: ...


def zeros(
    shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Return x [T, B, I], a state [L, B, H] and all weights of an LSTM, all zero."""
    T, B, I, H, L = shape
    weights = []
    for layer in range(L):
        sizes = (4 * H, I if layer == 0 else H), (4 * H, H), (4 * H,), (4 * H,)
        weights += [torch.zeros(size, dtype=dtype) for size in sizes]
    return torch.zeros(T, B, I, dtype=dtype), torch.zeros(L, B, H, dtype=dtype), weights


def count_compilations() -> None:
    """Have COMPILED tell which kernels are compiled from now on."""
    from triton import knobs

    def listen(src: Any, metadata: Any, metadata_group: Any, times: Any, cache_hit: bool) -> None:
        if not cache_hit:
            COMPILED.append(src.name)

    knobs.compilation.listener = listen


def take_over(device: Any) -> None:
    """Have every kernel of this process compiled for `device` from now on, and none launched.

    Args:
        device: a fused_lstm.triton.devices.Device; tensors lie on the CPU. TRITON_INTERPRET must
            have been "0" before triton was imported.
    """
    from triton.runtime import driver

    from fused_lstm import triton
    from fused_lstm.triton import devices, interpreter

    if interpreter.is_interpreted():
        raise RuntimeError(
            f"Triton's interpreter is on; start Python with {interpreter.VARIABLE}=0"
        )
    own: Any = _Driver(device)
    driver.set_active(own)
    vars(devices)["current"] = lambda _: device
    vars(triton)["missing"] = lambda device: None
