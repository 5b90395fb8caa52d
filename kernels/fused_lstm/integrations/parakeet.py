"""Greedy decoding of Parakeet's transducers (the package `transformers`), RNNT and TDT, on a CPU.

    decode = fused_lstm.integrations.parakeet.Greedy(model)  # or dtype=torch.int8
    output = decode(**processor(sound, return_tensors="pt"))

gives what `model.generate` gives, token by token. `generate` runs the model once a step, and most
steps emit a blank, after which the prediction network's output stays as it is. So the joint network
takes several frames in one product, which reads its weights once, and the prediction network runs
only after a token, on weights packed once.

T, J, V: frames of the encoder, size of the joint network, tokens with the blank.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.parakeet.generation_parakeet import ParakeetRNNTGenerateOutput

from ..inference.prepare import prepare
from ..layers.streaming import Streaming

FRAMES = 8  # that the joint network takes at once


class Greedy:
    """A transducer's greedy decoding: prediction network, joint network and the loop over frames.

    The weights are those of construction. The encoder is the model's own, as it is.

    Args:
        model: a ParakeetForRNNT or ParakeetForTDT on the CPU, in float32.
        dtype: of the weights of the prediction and joint networks: torch.float32 or torch.int8.
            With torch.int8 their inputs are rounded to bytes too, each frame's by itself.
        frames: how many frames the joint network takes at once in float32; tokens do not depend on
            it, except by rounding.

    Raises:
        ValueError: another model, dtype, device or number of frames.
        RuntimeError: engine `native` is missing; the message says why.
    """

    def __init__(
        self, model: Any, dtype: torch.dtype = torch.float32, frames: int = FRAMES
    ) -> None:
        kind = type(model).__name__
        if kind not in ("ParakeetForRNNT", "ParakeetForTDT"):
            raise ValueError(f"model: got {kind}; expected ParakeetForRNNT or ParakeetForTDT")
        if dtype not in (torch.float32, torch.int8):
            raise ValueError(f"dtype: got {dtype}; expected torch.float32 or torch.int8")
        if frames < 1:
            raise ValueError(f"frames: got {frames}; expected 1 or more")
        own = model.joint.head.weight
        if own.device.type != "cpu" or own.dtype != torch.float32:
            raise ValueError(
                f"model: got weights of {own.dtype} on {own.device}; expected torch.float32 on cpu"
            )
        self.model, self.vocab, self.durations = model, model.config.vocab_size, kind[-3:] == "TDT"
        self.blank, self.start = model.config.blank_token_id, _start_token(model)
        # A product in bytes has one scale for all its rows: a frame is to have its own.
        self.frames = frames if dtype == torch.float32 else 1
        decoder = model.decoder
        lstm = copy.deepcopy(decoder.lstm)
        self.lstm = Streaming(prepare(lstm, dtype))
        self.embedding, self.activation = decoder.embedding, model.joint.activation
        self.project = _linear(decoder.decoder_projector, dtype)
        self.head = _linear(model.joint.head, dtype)

    @torch.inference_mode()
    def __call__(
        self, input_features: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> ParakeetRNNTGenerateOutput:
        """Decode sounds, as `model.generate(input_features, attention_mask=...)` does.

        Args:
            input_features: [B, frames of sound, mels].
            attention_mask: [B, frames of sound], or None.

        Returns:
            What `generate` returns: `sequences` [B, steps], blanks among them, and `durations`
            [B, steps], how many frames each step goes on. A row that ends before others has the
            padding token and durations of 0 from there on.
        """
        encoded = self.model.get_audio_features(
            input_features=input_features, attention_mask=attention_mask,
            output_attention_mask=True,
        )  # fmt: skip
        B, T, _ = encoded.pooler_output.shape
        mask = encoded.attention_mask
        lengths = [T] * B if mask is None else mask.sum(-1).tolist()
        limit = self.model.max_symbols_per_step * T
        rows = [
            self.decode(frames[:length], limit)
            for frames, length in zip(encoded.pooler_output, lengths, strict=True)
        ]
        steps = max(len(tokens) for tokens, _ in rows)
        pad = self.model.config.pad_token_id
        sequences = [tokens + [pad] * (steps - len(tokens)) for tokens, _ in rows]
        durations = [taken + [0] * (steps - len(taken)) for _, taken in rows]
        return ParakeetRNNTGenerateOutput(
            sequences=torch.tensor(sequences), durations=torch.tensor(durations)
        )

    def decode(self, frames: Tensor, limit: int) -> tuple[list[int], list[int]]:
        """Return the tokens of one sound, the start among them, and the frames each goes on.

        Args:
            frames: [T, J], of the encoder and its projection.
            limit: the largest number of tokens.
        """
        most, t, at_frame = self.model.max_symbols_per_step, 0, 0
        tokens, taken = [self.start], [0]
        self.lstm.reset()
        predicted = self.predict(self.start)
        while t < len(frames) and len(tokens) < limit:
            block = self.joint(frames[t : t + self.frames], predicted)
            n = 0  # frame of the block
            while n < len(block) and len(tokens) < limit:
                token, duration = block[n]
                emits = token != self.blank
                if self.durations:
                    goes_on = duration if emits else max(duration, 1)
                else:
                    at_frame = at_frame + 1 if emits else 0
                    goes_on = int(not emits or at_frame >= most)
                    at_frame *= not goes_on
                tokens.append(token)
                taken.append(goes_on)
                n += goes_on
                if emits:
                    predicted = self.predict(token)
                    break
            t += n
        return tokens, taken

    def predict(self, token: int) -> Tensor:
        """Return the prediction network's output [J] after a token; its state goes on."""
        return self.project(self.lstm(self.embedding.weight[token : token + 1]))[0]

    def joint(self, frames: Tensor, predicted: Tensor) -> list[tuple[int, int]]:
        """Return the best token of each frame, and its duration, 0 where the model has none."""
        logits = self.head(self.activation(frames + predicted))
        tokens = logits[:, : self.vocab].argmax(1).tolist()
        if not self.durations:
            return [(token, 0) for token in tokens]
        return list(zip(tokens, logits[:, self.vocab :].argmax(1).tolist(), strict=True))


def _start_token(model: Any) -> int:
    """Return the token that decoding begins with, as `generate` chooses it."""
    config = model.generation_config
    for token in (config.decoder_start_token_id, config.bos_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        "model: got a generation_config without decoder_start_token_id; expected one, as"
        " model.generate does"
    )


def _linear(layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """Return a linear layer itself, or one with the weights of it as bytes."""
    if dtype == torch.float32:
        return layer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(copy.deepcopy(layer)))[0]
