"""`python -m lm.export DIR`: a trained model for PyTorch alone, none of this project.

Legend: T time steps, B batch, H hidden size, L layers, V vocabulary.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from lm.checkpoint import Checkpoint, load
from lm.command import Parser, UserError, add_checkpoint, command, reason
from lm.files import check_file, to_json, write_atomically

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


def sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the model's sizes, as the texts above name them."""
    return {"hidden": checkpoint.config.hidden_size, "layers": checkpoint.config.num_layers}


def export_weights(checkpoint: Checkpoint) -> bytes:
    """Return a safetensors file of the weights; its metadata: the sizes and the vocabulary."""
    spec = checkpoint.config.spec()
    for name in [*([] if spec.cell == "lstm" else [spec.cell]), *spec.cell_options()]:
        if not name.endswith("_dropout"):  # which matters in training only
            raise UserError(f"--output: nn.LSTM has no {name}; a program, *{PROGRAM}, has it")
    about = {
        "num_layers": str(checkpoint.config.num_layers),
        "hidden_size": str(checkpoint.config.hidden_size),
        "vocabulary": json.dumps(checkpoint.vocabulary),
    }
    return safetensors.torch.save(checkpoint.weights(), about)


def export_program(checkpoint: Checkpoint) -> bytes:
    """Return the file of a program for one step and any B, in PyTorch's own operators."""
    model = checkpoint.model("loop").eval()
    batch = {1: torch.export.Dim("B")}
    inputs = torch.zeros(1, 3, dtype=torch.int64)
    program = torch.export.export(
        model, (inputs, model.init_hidden(3)), dynamic_shapes=(batch, (batch, batch))
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def export_folder(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the files of the Hugging Face hub's layout, by name."""
    options, vocabulary = checkpoint.options, checkpoint.vocabulary
    use = USE_WEIGHTS.format(file="model.safetensors", **sizes(checkpoint))
    card = CARD.format(
        words=len(vocabulary), data=Path(options["data"]).name, step=checkpoint.step,
        preset=options["preset"], use=use, **sizes(checkpoint),
    )  # fmt: skip
    about = {"architectures": ["LM_LSTM"], "model_type": "lstm", "vocab_size": len(vocabulary)}
    return {
        "model.safetensors": export_weights(checkpoint),
        "config.json": to_json(about | asdict(checkpoint.config)),
        "vocabulary.json": to_json(vocabulary),
        "README.md": card.encode(errors="backslashreplace"),  # a text's name may hold any bytes
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write a new folder, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        for name, content in files.items():
            write_atomically(new / name, content)
        new.rename(folder)


def push(folder: Path, name: str) -> str:
    """Upload a folder to the hub's repository `name`; return its address, or raise UserError."""
    import huggingface_hub

    try:
        huggingface_hub.create_repo(name, exist_ok=True)
        return str(huggingface_hub.upload_folder(repo_id=name, folder_path=folder))
    except Exception as error:  # its own kinds, and those of a network
        raise UserError(f"--push {name}: {reason(error)}; {folder} is written") from None


# --- the command ---


@command("lm.export")
def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line `argv` says, or this process's; return the exit status."""
    parser = Parser("lm.export", "A trained model as a file that needs PyTorch only.")
    add_checkpoint(parser)
    parser.add_argument("--output", type=Path, default=Path(f"lm{WEIGHTS}"), metavar="FILE",
        help=f"its name says what is written: *{WEIGHTS} weights for nn.LSTM, *{PROGRAM} a program "
        f"of torch.export for one step (T = 1), a new folder without either [lm{WEIGHTS}]"
    )  # fmt: skip
    parser.add_argument("--push", metavar="NAME", help="then upload the folder to this repository "
        "of the Hugging Face hub")  # fmt: skip
    args = parser.parse_args(argv)
    output = args.output
    if output.suffix not in ("", WEIGHTS, PROGRAM):
        raise UserError(f"--output: got '{output}'; expected it to end in {WEIGHTS} or {PROGRAM}")
    if args.push is not None and output.suffix:
        raise UserError(f"--push: got --output '{output}', a file; expected a folder")
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
    content = export_weights(checkpoint) if weights else export_program(checkpoint)
    write_atomically(output, content)
    use = (USE_WEIGHTS if weights else USE_PROGRAM).format(file=str(output), **sizes(checkpoint))
    print(f"{output}: {checkpoint.path}, {len(content):,} bytes. To use it:\n\nimport torch\n{use}")


if __name__ == "__main__":
    sys.exit(main())
