"""What every contender of a training race is given: a preset, the same weights, the same words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lm import data
from lm.config import PRESETS, Config
from lm.model import build_model

VOCABULARY = 10_000  # Penn Treebank's
BATCHES = 8
CHECKED = 3  # steps whose losses and whose updates are compared
FEW = 10  # words of the last checked batch


@dataclass(frozen=True, eq=False)
class Lesson:
    """`weights` is LM_LSTM's state_dict; `inputs` and `targets` are int64 [BATCHES, T, B].

    What is differentiated is `scale` times the mean loss over words: T where the preset sums over
    time. An answer is the losses of the first CHECKED steps, and what they changed in every weight,
    under the names of `weights` without "lstm.". `autocast` is the dtype of the products, None the
    weights' own.
    """

    config: Config
    weights: dict[str, Tensor]
    inputs: Tensor
    targets: Tensor
    vocabulary: int
    autocast: torch.dtype | None = None

    modes = ("train", "rest")

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights["sm_fc.weight"].dtype

    @property
    def words(self) -> int:
        """That one step reads."""
        return self.inputs[0].numel()

    @property
    def scale(self) -> int:
        return self.config.num_steps if self.config.loss_over_time == "sum" else 1

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """h, c before the first step: zeros [L, B, H]."""
        c = self.config
        h, c = torch.zeros(2, c.num_layers, c.batch_size, c.hidden_size, device=self.device)
        return h.to(self.dtype), c.to(self.dtype)

    def named(self) -> dict[str, Tensor]:
        """What a peer is handed over."""
        h0, c0 = self.state
        weights = {name.removeprefix("lstm."): w for name, w in self.weights.items()}
        settings = {
            "keep_prob": self.config.keep_prob,
            "rate": self.config.learning_rate,
            "clip": self.config.max_grad_norm,
            "scale": float(self.scale),
        }
        numbers = {name: torch.tensor(value) for name, value in settings.items()}
        numbers["checked"] = torch.tensor(CHECKED)
        given = {"h0": h0, "c0": c0, "inputs": self.inputs, "targets": self.targets}
        return weights | numbers | given


def make_lesson(
    size: str,
    device: torch.device | str = "cpu",
    text: str | None = None,
    autocast: torch.dtype | None = None,
) -> Lesson:
    """The preset `size` on words of `text`, as lm.data names it, or on words drawn at random.

    Speed does not depend on what the words say. But the last of the batches that are checked has
    FEW words, so that its gradient is clipped, which others at the start are not.
    """
    config = PRESETS[size]
    if text is None:
        vocabulary, generator = VOCABULARY, torch.Generator().manual_seed(0)
        shape = BATCHES, config.num_steps + 1, config.batch_size
        ids = torch.randint(vocabulary, shape, generator=generator)
        ids[CHECKED - 1] %= FEW
        inputs, targets = ids[:, :-1], ids[:, 1:]
    else:
        corpus = data.load_corpus(text)
        columns = data.Columns(corpus.train, config.batch_size, torch.device("cpu"))
        pairs = [columns.batch(i, config.num_steps) for i in range(BATCHES)]
        inputs, targets = map(torch.stack, zip(*pairs, strict=True))
        vocabulary = len(corpus.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, vocabulary, "cudnn")
    weights = {name: w.detach().to(device) for name, w in model.state_dict().items()}
    inputs, targets = (t.contiguous().to(device) for t in (inputs, targets))
    return Lesson(config, weights, inputs, targets, vocabulary, autocast)
