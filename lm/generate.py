"""`python -m lm.generate DIR`: text from a trained model, a token at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import torch

from lm.checkpoint import open_trained
from lm.command import (
    COUNT,
    NOT_NEGATIVE,
    SEED,
    WHOLE,
    Parser,
    UserError,
    add_checkpoint,
    add_engine,
    add_weights,
    command,
)
from lm.data import EOS, UNK, tokenize
from lm.model import LM_LSTM


@torch.inference_mode()
def generate(
    model: LM_LSTM,
    prompt: Sequence[int],
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
) -> Iterator[int]:
    """Yield ids of words that follow those of `prompt`, at least one, without end.

    Each is drawn from softmax(logits / temperature), from the `top_k` likeliest words only unless
    that is 0, with the random numbers of `generator` (on the CPU); temperature 0 takes the
    likeliest word. The state is carried, as the engine wrote it, so a word costs one step
    (T = B = 1) however long the text is. The model must be in evaluation mode.
    """
    device = model.sm_fc.weight.device
    inputs = torch.tensor(prompt, device=device)[:, None]
    hidden = model.init_hidden(1)
    while True:
        outputs, hidden = model.features(inputs, hidden)
        logits = model.sm_fc(outputs[-1, 0])
        word = choose(logits.float().cpu(), generator, temperature, top_k)
        yield word
        inputs = torch.tensor([[word]], device=device)


def choose(logits: torch.Tensor, generator: torch.Generator, temperature: float, top_k: int) -> int:
    """Return the index of one of logits [V], on the CPU, drawn as `generate` says."""
    if temperature == 0:
        return int(logits.argmax())
    words = None
    if 0 < top_k < len(logits):
        logits, words = logits.topk(top_k)
    # The largest becomes 0, so that a low temperature cannot overflow; in double, none is 0.
    weights = ((logits - logits.max()).double() / temperature).exp()
    drawn = torch.multinomial(weights, 1, generator=generator)
    return int(drawn if words is None else words[drawn])


def encode_prompt(prompt: str, vocabulary: Sequence[str]) -> list[int]:
    """Return ids of the words of `prompt`, after the end of a line, which a text begins after.

    A word that the vocabulary lacks is tried in lower case, punctuation apart, and is `<unk>`
    then. UserError where there is no `<unk>`.
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    words = [EOS] if EOS in ids else []
    for word in prompt.split():
        words += [word] if word in ids else tokenize(word)
    for word in words:
        if word not in ids and UNK not in ids:
            raise UserError(f"--prompt: {word!r} is outside the vocabulary, which has no {UNK}")
    if not words:
        raise UserError("--prompt: is empty")
    return [ids[word if word in ids else UNK] for word in words]


# --- the command ---


@command("lm.generate")
def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line `argv` says, or this process's; return the exit status."""
    parser = Parser("lm.generate", "Text from a trained model.")
    add_checkpoint(parser)
    add_engine(parser)
    add_weights(parser)
    add = parser.add_argument
    # fmt: off
    add("--prompt", default="", metavar="TEXT", help="what it goes on from [the end of a line]")
    add("--length", default=100, type=COUNT, metavar="N", help="words [100]")
    add("--temperature", default=1.0, type=NOT_NEGATIVE, metavar="X", help="below 1 likelier "
        "words, 0 always the likeliest [1]")
    add("--top-k", default=0, type=WHOLE, metavar="N", help="draw from the N likeliest words only "
        "[0: from all]")
    add("--seed", default=1, type=SEED, metavar="N", help="of the random numbers [1]")
    # fmt: on
    args = parser.parse_args(argv)
    checkpoint, model = open_trained(args)
    prompt = encode_prompt(args.prompt, checkpoint.vocabulary)
    generator = torch.Generator().manual_seed(args.seed)
    words = generate(model.eval(), prompt, generator, args.temperature, args.top_k)
    sys.stdout.write(args.prompt)
    moments = [time.perf_counter()]
    for _ in range(args.length):
        word = checkpoint.vocabulary[next(words)]
        sys.stdout.write("\n" if word == EOS else f" {word}")
        sys.stdout.flush()
        moments.append(time.perf_counter())
    sys.stdout.write("\n")
    # The first reads the prompt, and what an engine compiles, it compiles then.
    begin, first, last = moments[0], moments[1], moments[-1]
    text = f"lm.generate: first token after {(first - begin) * 1e3:.1f} ms"
    if args.length > 1:
        text += f", then {(args.length - 1) / (last - first):,.0f} tokens per second"
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
