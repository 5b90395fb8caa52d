"""A result file as the suite writes it, with made-up times, for the tests of the report."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from bench.alone import MODES, SIZES, Shape

# label -> (engine, fuse, peer, seconds of a step at the small preset, launches, MB)
CASES = {
    "loop-none": ("loop", "none", None, 17.4e-3, 1200, 368.0),
    "compile": ("compile", None, None, 15.5e-3, 90, None),
    "cudnn": ("cudnn", None, None, 5.5e-3, 6, 32.0),
    "native-pointwise": ("native", "pointwise", None, 12e-3, 406, 339.0),
    "native-steps": ("native", "steps", None, 4.2e-3, 6, 18.0),
    "native-layers": ("native", "layers", None, 4.0e-3, 2, 17.0),
    "tensorflow": ("tensorflow", None, "TensorFlow, unrolled", 20.9e-3, None, None),
    "tensorflow-xla": ("tensorflow-xla", None, "the same under XLA", 9.7e-3, None, None),
    "keras": ("keras", None, "Keras LSTM", 11e-3, None, None),
    "jax": ("jax", None, "lax.scan", 15.9e-3, None, None),
}
# label -> (engine, fuse, peer, seconds of a training step at the small preset, the LSTM's share)
TRAINING = {
    "tensorflow": ("tensorflow", None, "TensorFlow, unrolled", 90e-3, 0.3),
    "tensorflow-xla": ("tensorflow-xla", None, "the same under XLA", 115e-3, 0.2),
    "keras": ("keras", None, "Keras LSTM", 103e-3, 0.35),
    "jax": ("jax", None, "lax.scan", 98e-3, 0.3),
    "stock-loop-none": ("loop", "none", None, 86e-3, 0.3),
    "stock-cudnn": ("cudnn", None, None, 76e-3, 0.12),
    "stock-native-pointwise": ("native", "pointwise", None, 82e-3, 0.2),
    "stock-native-steps": ("native", "steps", None, 71e-3, 0.08),
    "stock-native-layers": ("native", "layers", None, 71e-3, 0.08),
    "native-layers": ("native", "layers", None, 57e-3, 0.1),
    "cudnn": ("cudnn", None, None, 60e-3, 0.15),
}
MACHINE = {
    "device": "cpu",
    "processor": "A Processor",
    "cores": 2,
    "threads": 2,
    "memory_gib": 24.0,
    "system": "Linux 6",
    "python": "3.11.7",
    "isa": "AVX512",
    "libraries": {"torch": "2.13.0", "triton": "3.9.0"},
    "engines": {"loop": "a step loop"},
    "dtype": "float32",
    "product_peak_gflops": 480.0,
    "copy_bandwidth_gb_per_second": 22.0,
}
SCALE = {"small": 1.0, "medium": 18.0, "large": 140.0}
PART = {"inference": 0.3, "forward": 0.35, "backward": 0.65, "step": 1.0}


def bench(group: str, label: str, seconds: float, shape: Shape, **about: Any) -> dict[str, Any]:
    """One entry of "benchmarks"; rounds scatter by a few per cent, the same every time."""
    train = about["suite"] == "train"
    known = TRAINING if train else CASES
    engine, fuse, peer = known[label][:3]
    launches, megabytes = (None, None) if train else CASES[label][4:]
    draw = random.Random(group + label)
    data = sorted(seconds * draw.uniform(0.97, 1.06) for _ in range(7))
    mode = about.get("mode", "step")
    flops = shape.flops(mode) if mode in MODES else 0
    info = {
        **{"label": label, "engine": engine, "fuse": fuse, "peer": peer, "device": "cpu"},
        **{"dtype": "float32", "shape": shape._asdict(), **about},
        "tokens_per_second": shape.tokens / data[3],
        "speedup_over_nn_lstm": known["cudnn"][3] / known[label][3],
        "max_error": 2e-7,
        "gflops": flops / data[3] / 1e9,
        "percent_of_product_peak": flops / data[3] / 480e7,
    }
    if train:
        rest = (1 - TRAINING[label][4]) * data[3]
        info |= {"losses": [9.210340, 9.2, 9.1], "seconds_without_lstm": rest}
        info["stock"] = label.startswith("stock")
    if launches is not None:
        info["launches"], info["peak_memory"] = launches, 10**7
        parts = {"products": 0.5, "pointwise": 0.2, "fused": 0.0, "copies": 0.1}
        if fuse in ("steps", "layers") or engine == "cudnn":
            parts = {"products": 0.0, "pointwise": 0.0, "fused": 0.95, "copies": 0.01}
        info["seconds_by_kind"] = {kind: part * data[3] for kind, part in parts.items()}
        info["bytes"] = None if megabytes is None else megabytes * 1e6 * seconds / CASES[label][3]
    stats = {"q1": data[1], "median": data[3], "q3": data[5], "data": data}
    return {"group": group, "name": label, "stats": stats, "extra_info": info}


def everything(
    slower: float = 1.0,
    labels: tuple[str, ...] = tuple(CASES),
    trained: tuple[str, ...] = tuple(TRAINING),
) -> dict[str, Any]:
    """A whole run; `slower` is a factor on our own kernels' times."""
    found = []
    for label in trained:
        for size, shape in SIZES.items():
            about = {"suite": "train", "size": size, "mode": "training step"}
            at = TRAINING[label][3] * SCALE[size]
            found.append(bench(f"training, {size}", label, at, shape, **about))
    for label in labels:
        own = slower if label.startswith("native") else 1.0
        seconds, peer = CASES[label][3] * own, CASES[label][2]
        for size, shape in SIZES.items():
            at = seconds * SCALE[size]
            for mode, part in PART.items():
                if peer is None or mode in ("step", "inference"):
                    about = {"suite": "lstm", "size": size, "mode": mode}
                    found.append(bench(f"LSTM, {size}, {mode}", label, at * part, shape, **about))
        if peer is None and label != "compile":
            found += _scaling(label, seconds)
    return {
        "machine_info": {"fused_lstm": MACHINE},
        "commit_info": {"id": "0123456789abcdef"},
        "datetime": "2026-11-24T12:00:00",
        "not_measured": {"triton-layers": "Triton's interpreter verifies and does not race"},
        "benchmarks": found,
    }


def _scaling(label: str, seconds: float) -> list[dict[str, Any]]:
    start, found = {"T": 20, "B": 20, "H": 256, "L": 2}, []
    for axis, values in {"T": (5, 20, 80), "B": (1, 20, 80), "H": (64, 256), "L": (1, 4)}.items():
        for value in values:
            at = start | {axis: value}
            shape = Shape(at["T"], at["B"], at["H"], at["H"], at["L"])
            about = {"suite": "scaling", "axis": axis, "value": value, "mode": "step"}
            factor = value / start[axis]
            found.append(bench(f"scaling {axis}={value}", label, seconds * factor, shape, **about))
    return found


def write(path: Path, run: dict[str, Any]) -> Path:
    path.write_text(json.dumps(run))
    return path
