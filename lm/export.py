"""`python -m lm.export`: a trained model as a file that needs PyTorch only, none of this project.

Or as a folder in the Hugging Face hub's layout: model.safetensors, config.json, vocabulary.json and
a model card, README.md.

Legend: T time steps, B batch, H hidden size, L layers, V vocabulary.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.command import main_imports, run_command

with main_imports(__name__):
    import dataclasses
    import io
    import json
    import textwrap
    import warnings

    import safetensors.torch
    import torch
    from torch import nn

    import fused_lstm
    from lm.arguments import Parser, add_checkpoint
    from lm.config import Config
    from lm.errors import UserError, reason
    from lm.saving import checkpoint
    from lm.saving.checkpoint import Checkpoint
    from lm.saving.files import (
        check_output,
        check_writable,
        to_json,
        whole_directory,
        write_atomically,
        write_synced,
    )

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


class PlainModel(nn.Module):
    """The trained model in PyTorch's own operators, for evaluation: LM_LSTM's forward.

    forward(inputs [T, B] int64, (h, c) [L, B, H]) -> (logits [T, B, V], (h, c)).
    """

    def __init__(self, found: Checkpoint) -> None:
        super().__init__()
        config, vocab_size = found.config, len(found.vocabulary)
        self.word_embeddings = nn.Embedding(vocab_size, config.hidden_size)
        sizes, cell = (config.hidden_size, config.hidden_size, config.num_layers), own_cell(config)
        self.lstm = fused_lstm.LSTM(*sizes, engine="loop", **cell) if cell else nn.LSTM(*sizes)
        self.sm_fc = nn.Linear(config.hidden_size, vocab_size)
        self.to(found.weights["word_embeddings.weight"].dtype)
        tied = {"sm_fc.weight": found.weights["word_embeddings.weight"]}
        self.load_state_dict({**tied, **found.weights})
        self.eval()

    def forward(self, inputs, hidden):
        outputs, hidden = self.lstm(self.word_embeddings(inputs), hidden)
        return self.sm_fc(outputs), hidden


def own_cell(config: Config) -> dict:
    """What nn.LSTM has not, of the options that matter outside training."""
    cell = config.cell().cell_options()
    return {name: v for name, v in cell.items() if not name.endswith("_dropout")}


def export_weights(found: Checkpoint) -> bytes:
    """A safetensors file of the weights; its metadata holds the settings and the vocabulary."""
    for name in own_cell(found.config):
        raise UserError(f"--output: nn.LSTM has no {name}; a program, *{PROGRAM}, has it")
    weights = {name: t.clone() for name, t in PlainModel(found).state_dict().items()}
    about = {
        "num_layers": str(found.config.num_layers),
        "hidden_size": str(found.config.hidden_size),
        "vocabulary": json.dumps(found.vocabulary, ensure_ascii=False),
    }
    return safetensors.torch.save(weights, about)


def export_program(
    model: nn.Module, hidden_size: int, num_layers: int, num_steps: int | None = None
) -> torch.export.ExportedProgram:
    """`model`, in evaluation mode, by torch.export, for every B, and T = `num_steps` or any T >= 2.

    PyTorch takes its own LSTM apart into steps, so that one needs `num_steps`; an engine with an
    operator for all steps does not.
    """
    weight, any_batch = next(model.parameters()), {1: torch.export.Dim("B")}
    state = weight.new_zeros(num_layers, 3, hidden_size)
    inputs = torch.zeros(num_steps or 5, 3, dtype=torch.int64, device=weight.device)
    steps = {} if num_steps else {0: torch.export.Dim("T", min=2)}
    with warnings.catch_warnings():
        # nn.LSTM lists its own parameters while it is traced: known, and harmless
        warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights")
        return torch.export.export(
            model,
            (inputs, (state, state.clone())),
            dynamic_shapes=({**steps, **any_batch}, (any_batch, any_batch)),
        )


def export_folder(found: Checkpoint) -> dict[str, bytes]:
    """The files of the hub's layout, by name."""
    config, run = found.config, found.run
    sizes = {"hidden": config.hidden_size, "layers": config.num_layers}
    use = textwrap.dedent(USE_WEIGHTS.format(file="model.safetensors", **sizes))
    card = CARD.format(
        words=len(found.vocabulary), data=Path(str(run.get("data", "an unnamed text"))).name,
        step=found.step, preset=run.get("preset", "unnamed"), use=use, **sizes,
    )  # fmt: skip
    size = len(found.vocabulary)
    about = {"architectures": ["LM_LSTM"], "model_type": "lstm", "vocab_size": size}
    return {
        "model.safetensors": export_weights(found),
        "config.json": to_json(about | dataclasses.asdict(config)),
        "vocabulary.json": to_json(found.vocabulary),
        "README.md": card.encode(errors="backslashreplace"),  # a text's name may hold any bytes
    }


def push(folder: Path, name: str) -> str:
    """Upload a folder to the hub's repository `name`; its address, or UserError."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("--push needs huggingface_hub: pip install 'fused-lstm[hub]'") from None
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
    options = parser.parse_args(argv)
    return run_command("lm.export", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    output = options.output
    if output.suffix not in ("", WEIGHTS, PROGRAM):
        raise UserError(f"--output: '{output}' should end in {WEIGHTS} or {PROGRAM}")
    if options.push is not None and output.suffix:
        raise UserError("--push: --output should be a folder")
    if not output.suffix:
        _write_folder(options)
        return
    check_output(output, "--output")
    found = checkpoint.load(options.checkpoint, options.best)
    if output.suffix == WEIGHTS:
        content, use = export_weights(found), USE_WEIGHTS
    else:
        content, use = _program_bytes(found), USE_PROGRAM
    write_atomically(output, content)
    config = found.config
    print(f"{output}: {found.path}, {len(content):,} bytes. To use it:\n\n    import torch")
    print(use.format(file=str(output), hidden=config.hidden_size, layers=config.num_layers))


def _write_folder(options: argparse.Namespace) -> None:
    output = options.output
    if output.exists():
        raise UserError(f"--output: '{output}' exists")
    check_writable(output.parent, "--output")
    files = export_folder(checkpoint.load(options.checkpoint, options.best))
    with whole_directory(output) as directory:
        for name, content in files.items():
            write_synced(directory / name, content)
    print(f"{output}: {', '.join(files)}")
    if options.push is not None:
        print(push(output, options.push))


def _program_bytes(found: Checkpoint) -> bytes:
    buffer = io.BytesIO()
    config = found.config
    program = export_program(PlainModel(found), config.hidden_size, config.num_layers, 1)
    torch.export.save(program, buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
