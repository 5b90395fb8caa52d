"""Stanza: the named entity tagger, on characters alone, as its pretrained words are downloaded."""

import torch
from stanza.models.ner.model import NERTagger

from .case import Case

ARGS = {
    "word_emb_dim": 0, "char": True, "char_emb_dim": 100, "char_hidden_dim": 100,
    "char_num_layers": 1, "char_rec_dropout": 0.0, "charlm": False,
    "hidden_dim": 256, "num_layers": 1, "dropout": 0.0, "word_dropout": 0.0, "locked_dropout": 0.0,
}  # fmt: skip


class Vocabulary(list):
    """So many characters, or one set of so many tags."""

    def lens(self) -> list[int]:
        """Return the sizes of the tag sets."""
        return [len(self)]


def case() -> Case:
    """Return the tagger and 32 sentences of 9 to 40 words of 10 characters."""
    model = NERTagger(ARGS, {"char": Vocabulary(range(100)), "tag": Vocabulary(range(20))})
    lengths = list(range(40, 8, -1))
    words = sum(lengths)
    characters, tags = torch.randint(1, 100, (words, 10)), torch.randint(20, (32, 40, 1))
    arguments = (
        [None] * 32, characters, characters == 0, tags, list(range(words)), lengths, [10] * words,
        *[None] * 4,
    )  # fmt: skip
    return Case(model, lambda: model(*arguments)[1], lambda: model(*arguments)[0])
