"""Flair: the character language model behind its embeddings, 2,048 units."""

import torch
import transformers

from .case import Case, mean_square

# A name that flair 0.15 imports and never uses here; transformers 5 does not have it.
vars(transformers).setdefault("LayoutLMv2FeatureExtractor", None)
from flair.data import Dictionary  # noqa: E402
from flair.models import LanguageModel  # noqa: E402


def case() -> Case:
    """Return the forward model and 8 sentences of 60 characters."""
    characters = Dictionary()
    for number in range(275):
        characters.add_item(str(number))
    model = LanguageModel(characters, True, 2048, 1, embedding_size=100, dropout=0.0)
    text = torch.randint(275, (60, 8))

    def call() -> tuple:
        return model(text, model.init_hidden(8))

    return Case(model, call, lambda: mean_square(call()))
