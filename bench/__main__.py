"""`python -m bench TOPIC`: one driver for whatever is measured outside the suite.

    python -m bench ladder --sizes medium --device cuda:0
    python -m bench native --help

Every topic names the machine, checks the answers, takes its times in turn and writes a file.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lm.command import THREADS, Parser, Range, UserError, number
from lm.device import open_device

from .alone import SIZES, choose_sizes
from .measure.check import WrongAnswer
from .measure.machine import describe, in_a_line

TOPICS = {
    "ladder": "the three fusions, one at a time, and what each gained",
    "post": "the post's own table: TensorFlow, JAX, PyTorch, and the fusions",
    "native": "the C++ engine against stock PyTorch, the LSTM alone and whole training steps",
    "scaling": "the C++ engine's time by threads, T, B and H",
    "short": "calls of one token and of 16, beside ONNX Runtime and OpenVINO",
    "streaming": "one step a call, as a stream is served",
    "cells": "cells that cuDNN does not have, beside the plain one, their loops and Keras",
    "samples": "gradients of each sample, as private training needs them, beside Opacus's DPLSTM",
    "parts": "where a training step's time goes",
    "products": "each matrix product of the C++ engine by itself",
    "accuracy": "how near the C++ engine's results are to float64's, beside PyTorch's",
    "gpu": "on a machine with a GPU: compile, test and race all kernels",
}


def parser_of(topic: str, module: Any) -> Parser:
    """What all topics have, and a topic's own options."""
    parser, default = Parser(f"bench {topic}", module.__doc__), ",".join(module.SIZES)
    device = getattr(module, "DEVICE", None)
    threads, positive = torch.get_num_threads(), number(float, Range(0, open_low=True))
    add = parser.add_argument
    add("--sizes", default=default, help=f"presets, of {', '.join(SIZES)} [{default}]")
    add(
        "--device",
        default=device,
        help=f"such as cpu or cuda:1 [{device or 'an accelerator, else cpu'}]",
    )
    add("--seconds", type=positive, default=module.SECONDS, metavar="S",
        help=f"of timing, each measurement [{module.SECONDS:g}]")  # fmt: skip
    add("--threads", type=number(int, THREADS), default=threads, metavar="N",
        help=f"PyTorch's, and everybody's [{threads}]")  # fmt: skip
    file = Path(os.environ.get("OUT") or "out") / f"{topic}.json"
    add("--json", type=Path, default=file, metavar="FILE", help=f"where the figures go [{file}]")
    if hasattr(module, "options"):
        module.options(add)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in TOPICS:
        if argv and argv[0] not in ("--help", "-h"):
            print(f"bench: got {argv[0]!r}; expected one of these topics\n", file=sys.stderr)
        print(__doc__, *(f"{name:10} {about}" for name, about in TOPICS.items()), sep="\n")
        return 0 if argv[:1] in ([], ["--help"], ["-h"]) else 2
    topic, module = argv[0], importlib.import_module(f"bench.topics.{argv[0]}")
    parser = parser_of(topic, module)
    given = parser.parse_args(argv[1:])
    try:
        given.sizes = choose_sizes(given.sizes)
        given.device = open_device(given.device)
    except (UserError, ValueError) as error:
        parser.error(str(error) if isinstance(error, UserError) else f"--{error}")
    if why := getattr(module, "why_not", lambda device: None)(given.device):
        parser.error(why)
    torch.set_num_threads(given.threads)
    if hasattr(module, "elsewhere") and (status := module.elsewhere(given, argv)) is not None:
        return status
    machine = describe(given.device)
    print(in_a_line(machine), flush=True)
    try:
        found = module.run(given)
    except ValueError as error:
        parser.error(f"--{error}")
    except WrongAnswer as error:
        parser.exit(1, f"bench {topic}: refused: {error}\n")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")
    print(f"figures: {given.json}")
    after = getattr(module, "after", None)
    return 0 if after is None else after(given) or 0


if __name__ == "__main__":
    sys.exit(main())
