"""`python -m lm.export DIR`: a trained model for PyTorch alone, none of this project.

Legend: T time steps, B batch, H hidden size, L layers, V vocabulary.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from lm.checkpoint import Checkpoint, load
from lm.command import Parser, UserError, add_checkpoint, reason, run_command
from lm.files import check_file, sync_directory, to_json, write_atomically

WEIGHTS, PROGRAM = ".safetensors", ".pt2"

CARD = """\
---
library_name: pytorch
pipeline_tag: text-generation
tags: [lstm, language-model]
---

# A word-level LSTM language model

{layers} layers of {hidden} units over {words:,} words, trained on {data} for {step:,} steps by
[fused-lstm](https://pypi.org/project/fused-lstm/), preset `{preset}`. It predicts the next word of
a text; its license is for who trained it to say. `config.json` has every setting, `vocabulary.json`
the word of each id. To read it with PyTorch alone:

```python
import torch
{use}
```
"""

USE_WEIGHTS = """\
from safetensors.torch import load_file
weights = load_file({file!r})
part = lambda name: {{k[len(name) + 1:]: v for k, v in weights.items() if k.startswith(name)}}
lstm = torch.nn.LSTM({hidden}, {hidden}, {layers})
lstm.load_state_dict(part("lstm"))   # and word_embeddings, sm_fc likewise"""
USE_PROGRAM = """\
model = torch.export.load({file!r}).module()
logits, (h, c) = model(inputs, (h, c))   # inputs [1, B] int64; h, c [{layers}, B, {hidden}]"""


def export_weights(checkpoint: Checkpoint) -> bytes:
    """Return a safetensors file of the weights; its metadata: the sizes and the vocabulary."""
    for name in checkpoint.config.cell().cell_options():
        if not name.endswith("_dropout"):  # which matters in training only
            raise UserError(f"--output: nn.LSTM has no {name}; a program, *{PROGRAM}, has it")
    model = checkpoint.model("loop")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    about = {
        "num_layers": str(checkpoint.config.num_layers),
        "hidden_size": str(checkpoint.config.hidden_size),
        "vocabulary": json.dumps(checkpoint.vocabulary, ensure_ascii=False),
    }
    return safetensors.torch.save(weights, about)


def export_program(
    model: nn.Module, hidden_size: int, num_layers: int, num_steps: int | None = None
) -> torch.export.ExportedProgram:
    """Return `model`, in evaluation mode, by torch.export, for every B, and T = `num_steps`.

    Without `num_steps`, for any T >= 2: an engine with an operator for all steps can, a loop
    cannot.
    """
    weight, any_batch = next(model.parameters()), {1: torch.export.Dim("B")}
    state = weight.new_zeros(num_layers, 3, hidden_size)
    inputs = torch.zeros(num_steps or 5, 3, dtype=torch.int64, device=weight.device)
    steps = {} if num_steps else {0: torch.export.Dim("T", min=2)}
    shapes = ({**steps, **any_batch}, (any_batch, any_batch))
    return torch.export.export(model, (inputs, (state, state.clone())), dynamic_shapes=shapes)


def program_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the file of a program for one step, in PyTorch's own operators: those of `loop`."""
    config, buffer = checkpoint.config, io.BytesIO()
    model = checkpoint.model("loop").eval()
    program = export_program(model, config.hidden_size, config.num_layers, 1)
    torch.export.save(program, buffer)
    return buffer.getvalue()


def export_folder(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the files of the Hugging Face hub's layout, by name."""
    config, options = checkpoint.config, checkpoint.options
    sizes = {"hidden": config.hidden_size, "layers": config.num_layers}
    use = USE_WEIGHTS.format(file="model.safetensors", **sizes)
    card = CARD.format(
        words=len(checkpoint.vocabulary), data=Path(options["data"]).name, step=checkpoint.step,
        preset=options["preset"], use=use, **sizes,
    )  # fmt: skip
    about = {"architectures": ["LM_LSTM"], "model_type": "lstm"}
    about |= {"vocab_size": len(checkpoint.vocabulary), **asdict(config)}
    return {
        "model.safetensors": export_weights(checkpoint),
        "config.json": to_json(about),
        "vocabulary.json": to_json(checkpoint.vocabulary),
        "README.md": card.encode(errors="backslashreplace"),  # a text's name may hold any bytes
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write a new folder, whole or not at all; raise UserError where it cannot be written."""
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder.parent))
    try:
        for name, content in files.items():
            write_atomically(temporary / name, content)
        temporary.chmod(0o755)
        temporary.rename(folder)
        sync_directory(folder.parent)
    except OSError as error:
        raise UserError(f"cannot write '{folder}': {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def push(folder: Path, name: str) -> str:
    """Upload a folder to the hub's repository `name`; return its address, or raise UserError."""
    import huggingface_hub

    try:
        huggingface_hub.create_repo(name, exist_ok=True)
        return str(huggingface_hub.upload_folder(repo_id=name, folder_path=folder))
    except Exception as error:  # its own kinds, and those of a network
        raise UserError(f"--push {name}: {reason(error)}; {folder} is written") from None


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or this process's; return the exit status."""
    parser = Parser("lm.export", "A trained model as a file that needs PyTorch only.")
    add_checkpoint(parser)
    parser.add_argument("--output", type=Path, default=Path(f"lm{WEIGHTS}"), metavar="FILE",
        help=f"its name says what is written: *{WEIGHTS} weights for nn.LSTM, *{PROGRAM} a program "
        f"of torch.export for one step (T = 1), a new folder without either [lm{WEIGHTS}]"
    )  # fmt: skip
    parser.add_argument("--push", metavar="NAME", help="then upload the folder to this repository "
        "of the Hugging Face hub")  # fmt: skip
    args = parser.parse_args(argv)
    return run_command("lm.export", lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    output = args.output
    if output.suffix not in ("", WEIGHTS, PROGRAM):
        raise UserError(f"--output: got '{output}'; expected it to end in {WEIGHTS} or {PROGRAM}")
    if args.push is not None and output.suffix:
        raise UserError("--push: --output should be a folder")
    if output.is_dir():
        raise UserError(f"--output: '{output}' exists")
    check_file(output, "--output")
    checkpoint = load(args.checkpoint, args.best)
    if not output.suffix:
        files = export_folder(checkpoint)
        write_folder(output, files)
        print(f"{output}: {', '.join(files)}")
        if args.push is not None:
            print(push(output, args.push))
        return
    weights = output.suffix == WEIGHTS
    content = export_weights(checkpoint) if weights else program_bytes(checkpoint)
    write_atomically(output, content)
    sizes = {"hidden": checkpoint.config.hidden_size, "layers": checkpoint.config.num_layers}
    use = (USE_WEIGHTS if weights else USE_PROGRAM).format(file=str(output), **sizes)
    print(f"{output}: {checkpoint.path}, {len(content):,} bytes. To use it:\n\nimport torch\n{use}")


if __name__ == "__main__":
    sys.exit(main())
