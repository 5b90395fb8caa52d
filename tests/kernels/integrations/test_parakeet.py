"""Greedy decoding of Parakeet's transducers beside transformers' own `generate`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fused_lstm
from fused_lstm import native

pytest.importorskip("transformers", reason="the package transformers is not there")
from fused_lstm.integrations import parakeet

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(native.missing(CPU) is not None, reason=f"native: {native.missing(CPU)}"),
    pytest.mark.filterwarnings("ignore:Using the model-agnostic default"),
    pytest.mark.filterwarnings("ignore:.*quantize_dynamic"),
]
ENCODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "subsampling_conv_channels": 8, "num_mel_bins": 16,
}  # fmt: skip


def model_of(kind: str, seed: int, blank: float) -> Any:
    """Return a small model, whose blank's bias says how seldom it emits a token."""
    package: Any = pytest.importorskip("transformers.models.parakeet")
    torch.manual_seed(seed)
    config = getattr(package, f"Parakeet{kind}Config")(
        encoder_config=ENCODER, vocab_size=30, blank_token_id=29, decoder_hidden_size=24,
        max_symbols_per_step=3,
    )  # fmt: skip
    model = getattr(package, f"ParakeetFor{kind}")(config).eval()
    for name, weight in model.named_parameters():
        if "decoder" in name or "joint" in name:
            nn.init.normal_(weight, std=0.5)
    with torch.no_grad():
        model.joint.head.bias[29] += blank
        model.joint.head.bias[30:] -= (
            100  # of durations: generate's token is the best of all logits
        )
    model.generation_config.decoder_start_token_id = 29
    return model


@pytest.mark.parametrize("frames", [1, 3, 8])
@pytest.mark.parametrize("blank", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("kind", ["RNNT", "TDT"])
def test_tokens_and_durations_are_those_of_generate(kind, blank, frames):
    emitted = 0
    for seed in range(4):
        model = model_of(kind, seed, blank)
        sound = torch.randn(1, 40 + 80 * seed, 16) * 3
        expected = model.generate(input_features=sound)
        got = parakeet.Greedy(model, frames=frames)(sound)
        assert got.sequences.tolist() == expected.sequences.tolist()
        assert got.durations.tolist() == expected.durations.tolist()
        emitted += int((got.sequences != 29).sum())
    assert emitted > 4


@pytest.mark.parametrize("kind", ["RNNT", "TDT"])
def test_each_row_of_a_batch_is_decoded_to_its_own_end(kind):
    model = model_of(kind, 1, 3.0)
    sounds = torch.randn(3, 200, 16) * 3
    mask = torch.arange(200)[None] < torch.tensor([200, 90, 150])[:, None]
    got = parakeet.Greedy(model)(input_features=sounds, attention_mask=mask.long())
    expected = model.generate(input_features=sounds, attention_mask=mask.long())
    ends = set()
    for row, right, taken in zip(got.sequences, expected.sequences, got.durations, strict=True):
        steps = int(taken.nonzero().max()) + 1  # of this row: the others may have more
        assert row[:steps].tolist() == right[:steps].tolist()
        assert set(row[steps:].tolist()) <= {model.config.pad_token_id}
        ends.add(steps)
    assert len(ends) > 1


@pytest.mark.parametrize("kind", ["RNNT", "TDT"])
def test_int8_gives_the_tokens_of_a_model_of_int8(kind):
    """Compare with the networks with bytes for weights, called once a step by the model."""
    emitted = 0
    for seed in range(3):
        model = model_of(kind, seed, 2.0)
        sound = torch.randn(1, 200, 16) * 3
        got = parakeet.Greedy(model, torch.int8)(sound)
        rounded = copy.deepcopy(model)
        rounded.decoder.lstm = fused_lstm.prepare(rounded.decoder.lstm, torch.int8)
        for owner, name in (rounded.decoder, "decoder_projector"), (rounded.joint, "head"):
            setattr(owner, name, parakeet._linear(getattr(owner, name), torch.int8))
        expected = rounded.generate(input_features=sound)
        assert got.sequences.tolist() == expected.sequences.tolist()
        assert got.durations.tolist() == expected.durations.tolist()
        emitted += int((got.sequences != 29).sum())
    assert emitted > 3


def test_errors_are_one_line():
    model = model_of("RNNT", 0, 0.0)
    for arguments, error in (
        ((nn.Linear(2, 3),), "model: got Linear; expected ParakeetForRNNT or ParakeetForTDT"),
        ((model, torch.float16), "dtype: got torch.float16; expected torch.float32 or torch.int8"),
        ((model, torch.float32, 0), "frames: got 0; expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
            parakeet.Greedy(*arguments)
        assert str(raised.value) == error
    model.generation_config.decoder_start_token_id = None
    model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="without decoder_start_token_id; expected one"):
        parakeet.Greedy(model)
    with pytest.raises(ValueError, match=r"weights of torch.bfloat16 on cpu; expected torch.fl"):
        parakeet.Greedy(model.bfloat16())


@pytest.mark.parametrize("kind", ["RNNT", "TDT"])
def test_the_benchmark_emits_as_often_as_it_says(kind, monkeypatch):
    """Its parts are in the whole, and every loop gives the same tokens."""
    from bench import transducer
    from bench.contenders import BASE

    monkeypatch.setitem(transducer.SIZES, "tiny", ENCODER | {"num_mel_bins": transducer.MELS})
    sound = transducer.Sound("tiny", kind, 8)
    loops = (BASE, transducer.GREEDY, transducer.GREEDY_INT8)
    calls = [transducer.transcription(sound, how) for how in loops]
    frames = 8 * transducer.FRAMES // 8
    expected = calls[0].answer()["tokens"]
    for call in calls:
        tokens = call.answer()["tokens"]
        facts = call.facts("inference", 1)
        assert 0 < facts["encoder"] < facts["whole"]
        steps = frames / (1 if kind == "RNNT" else 2)
        assert facts["steps"] == pytest.approx(steps, abs=1)
        assert facts["tokens"] == pytest.approx(transducer.EMITTED[kind] * steps, rel=0.15)
        assert not call.gives("tokens") or tokens.tolist() == expected.tolist()
    facts = calls[0].facts("inference", 1)
    assert facts["prediction"] > 0
    assert facts["joint"] > 0
