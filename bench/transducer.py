"""The share of a transducer's greedy loop in a transcription: Parakeet in transformers, on a CPU.

The models have transformers' code and sizes, and random weights: `0.6b` those of its settings'
defaults, `110m` an encoder of 17 layers of 512 units. How often a transducer emits a token decides
what its loop costs. Trained models emit some three tokens a second of English from frames of 80 ms,
so which frames emit one is set beforehand, evenly; a frame emits one token at most, and a TDT model
goes on by two frames. Which token it is, the model says.

A transcription is timed whole, and in it the encoder, the prediction network (an embedding, the
LSTM, a projection) and the joint network. What is left is the loop's own work, transformers'
`generate`. "greedy" and "greedy-int8" decode by fused_lstm.integrations.parakeet.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .contenders import BASE
from .core import Call, Work
from .models.case import without_cuda

GREEDY, GREEDY_INT8 = "greedy", "greedy-int8"
PARTS = "encoder", "prediction", "joint"
EMITTED = {"RNNT": 0.24, "TDT": 0.6}  # of the frames: a TDT model leaves frames out
FAR = 500.0  # between the blank's logit and any other
MELS, FRAMES = 80, 100  # numbers of a frame of sound, and frames a second
SIZES = {
    "0.6b": {},
    "110m": {"hidden_size": 512, "num_hidden_layers": 17, "intermediate_size": 2048},
}
SECONDS = 10  # of sound


def parakeet(size: str, kind: str) -> Any:
    """Return a Parakeet of a size, RNNT or TDT, with random weights."""
    without_cuda()
    package: Any = importlib.import_module("transformers.models.parakeet")
    settings = getattr(package, f"Parakeet{kind}Config")(encoder_config=SIZES[size])
    model = getattr(package, f"ParakeetFor{kind}")(settings).eval()
    model.generation_config.decoder_start_token_id = settings.blank_token_id
    return model


@torch.no_grad()
def emit(model: Any, share: float) -> None:
    """Let a share of the frames emit a token, evenly: unit 0 of the joint network says which."""

    def mark(module: nn.Module, inputs: Any, frames: Tensor) -> None:
        n = torch.arange(frames.shape[1])
        frames[..., 0] = ((n + 1) * share).floor() > (n * share).floor()

    model.encoder_projector.register_forward_hook(mark)
    model.max_symbols_per_step = 1
    blank, vocab = model.config.blank_token_id, model.config.vocab_size
    projector, head = model.decoder.decoder_projector, model.joint.head
    projector.weight[0], projector.bias[0] = 0.0, 0.0
    head.weight[:, 0], head.weight[blank, 0] = 0.0, -2 * FAR
    head.bias[blank] = FAR
    # Let a model with durations go on by two frames; generate's token is the best of all logits.
    head.weight[vocab:], head.bias[vocab:] = 0.0, -3 * FAR
    head.bias[vocab + 2 : vocab + 3] += FAR


class Sound:
    """A model, and a sound that it transcribes."""

    def __init__(self, size: str, kind: str, seconds: int) -> None:
        torch.manual_seed(0)
        self.model, self.seconds = parakeet(size, kind), seconds
        self.sound = torch.randn(1, FRAMES * seconds, MELS)
        emit(self.model, EMITTED[kind])

    def decoder(self, how: str) -> Callable[..., Any]:
        """Return what maps sound to tokens: transformers' own loop, or ours in a dtype."""
        if how not in (GREEDY, GREEDY_INT8):
            return self.model.generate
        ours: Any = importlib.import_module("fused_lstm.integrations.parakeet")
        return ours.Greedy(self.model, torch.int8 if how == GREEDY_INT8 else torch.float32)


def transcription(sound: Sound, how: str) -> Call:
    """Return a transcription; its facts are the median seconds of its parts."""
    decode, parts = sound.decoder(how), []  # of each call
    model = sound.model

    def run() -> Tensor:
        spent = dict.fromkeys((*PARTS, "steps", "tokens"), 0.0)
        modules = model.encoder, model.decoder, model.joint
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            hooks = [h for p, m in zip(PARTS, modules, strict=True) for h in timed(m, p, spent)]
            begin = time.perf_counter()
            tokens = decode(input_features=sound.sound).sequences
            spent["whole"] = time.perf_counter() - begin
        for hook in hooks:
            hook.remove()
        spent["steps"] = tokens.shape[1] - 1
        spent["tokens"] = int((tokens[0, 1:] != model.config.blank_token_id).sum())
        parts.append(spent)
        return tokens

    def facts(mode: str, rounds: int) -> dict[str, Any]:
        return {n: statistics.median(call[n] for call in parts[-rounds:]) for n in parts[-1]}

    # Tokens of int8 may be others, and are compared by a test.
    return Call({"inference": run}, lambda: {"tokens": run().float()}, facts=facts,
        gives=lambda _: how != GREEDY_INT8)  # fmt: skip


def timed(module: nn.Module, name: str, spent: dict[str, float]) -> list[Any]:
    """Let a module add the seconds of its calls to `spent[name]`; return the hooks."""
    begun = [0.0]

    def begin(*_: Any) -> None:
        begun[0] = time.perf_counter()

    def end(*_: Any) -> None:
        spent[name] += time.perf_counter() - begun[0]

    return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]


def cases(o: Any) -> list[str]:
    """Return each model and sound."""
    return [f"{kind} {size}, {SECONDS} s" for size in SIZES for kind in EMITTED]


def setup(case: str, o: Any) -> Work:
    """Return a sound's transcription by each loop."""
    kind, size = case.partition(",")[0].split()
    if importlib.util.find_spec("transformers") is None:
        return Work({}, absent={BASE: "transformers is not installed; make models"})
    sound = Sound(size, kind, SECONDS)
    calls = {how: partial(transcription, sound, how) for how in (BASE, GREEDY, GREEDY_INT8)}
    facts = {"sound": SECONDS}
    return Work(calls, transcription(sound, BASE).answer, facts, name=f"Parakeet {case}")
