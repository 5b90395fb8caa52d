"""The language model of the blog post: embedding, dropout, LSTM, dropout, softmax layer.

Legend: T time steps, B batch, H hidden size, L layers, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fused_lstm
from lm.regularize import VariationalDropout, regularized_lstm
from lm.settings import Config

Hidden = tuple[torch.Tensor, torch.Tensor]


def repackage_hidden(h: Any) -> Any:
    """Return the tensor, or the tuple of tensors, detached from its history."""
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(part) for part in h)


class LM_LSTM(nn.Module):
    """A word-level language model on any engine of `fused_lstm`.

    Args:
        embedding_dim: size H of the embedding and of every layer.
        num_steps, batch_size: the training shape; `forward` takes any T and B.
        vocab_size: V.
        num_layers: L.
        dp_keep_prob: part of the units that dropout keeps, on the embedding, between the layers
            and on the last layer's output.
        lstm, fuse: the engine and how much it fuses, as `fused_lstm.LSTM` takes them.
        tie_weights: the softmax layer's weights are the embedding's.
        variational_dropout: dropout keeps or drops a unit for all steps of a call at once. Its
            mask between layers then calls the engine once a layer.
        weight_drop: part of the recurrent weights that each training call drops.
        cell: the LSTM's, nn.LSTM's if None; or an sLSTM, whose c is c, n and m side by side.
        forget_bias: as `fused_lstm.LSTM` takes it.

    The embedding and the softmax weights start uniform in [-0.1, 0.1] and the softmax bias at
    zero; the LSTM starts as `nn.LSTM` does. Raises what `fused_lstm.LSTM` raises.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_steps: int,
        batch_size: int,
        vocab_size: int,
        num_layers: int,
        dp_keep_prob: float,
        lstm: str = "auto",
        fuse: str | None = None,
        *,
        tie_weights: bool = False,
        variational_dropout: bool = False,
        weight_drop: float = 0.0,
        cell: fused_lstm.Spec | None = None,
        forget_bias: float | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.vocab_size = vocab_size
        self.num_layers = num_layers
        self.dp_keep_prob = dp_keep_prob
        self.word_embeddings = nn.Embedding(vocab_size, embedding_dim)
        kind = VariationalDropout if variational_dropout else fused_lstm.Dropout
        self.dropout = kind(1 - dp_keep_prob)
        self.weight_drop = weight_drop
        options: dict[str, Any] = {} if cell is None else cell.cell_options()
        make: Any = fused_lstm.SLSTM
        if cell is None or cell.cell == "lstm":
            make, options["forget_bias"] = fused_lstm.LSTM, forget_bias
        self.lstm = make(
            embedding_dim,
            embedding_dim,
            num_layers,
            # nn.LSTM warns of dropout between layers where there is one layer only.
            dropout=1 - dp_keep_prob if num_layers > 1 else 0.0,
            engine=lstm,
            fuse=fuse,
            **options,
        )
        self.sm_fc = nn.Linear(embedding_dim, vocab_size)
        if tie_weights:
            self.sm_fc.weight = self.word_embeddings.weight
        self.init_weights()

    def init_weights(self, scale: float = 0.1) -> None:
        """Draw embedding and softmax weights from [-scale, scale]; set the softmax bias to zero."""
        nn.init.uniform_(self.word_embeddings.weight, -scale, scale)
        nn.init.uniform_(self.sm_fc.weight, -scale, scale)
        nn.init.zeros_(self.sm_fc.bias)

    def init_hidden(self, batch_size: int | None = None) -> Hidden:
        """Return (h, c), zeros [L, B, H], an sLSTM's c [L, B, 3H], as the weights' dtype is."""
        batch_size = self.batch_size if batch_size is None else batch_size
        L, H, weight = self.num_layers, self.embedding_dim, self.sm_fc.weight
        c = weight.new_zeros(L, batch_size, H * self.lstm.spec.c_parts)
        return weight.new_zeros(L, batch_size, H), c

    def features(self, inputs: torch.Tensor, hidden: Hidden) -> tuple[torch.Tensor, Hidden]:
        """Return what the softmax layer reads [T, B, H] and the next state; inputs [T, B] int64."""
        embeds = self.dropout(self.word_embeddings(inputs))
        if self.training and (self.weight_drop or isinstance(self.dropout, VariationalDropout)):
            outputs, hidden = regularized_lstm(
                self.lstm, embeds, hidden, self.weight_drop, self.dropout
            )
        elif self.lstm.spec.c_parts == 1:
            outputs, hidden = self.lstm(embeds, hidden)
        else:  # an sLSTM's c, n and m lie side by side
            h, c = hidden
            outputs, (h, *parts) = self.lstm(embeds, (h, *c.chunk(self.lstm.spec.c_parts, dim=-1)))
            hidden = h, torch.cat(parts, dim=-1)
        return self.dropout(outputs), hidden

    def forward(self, inputs: torch.Tensor, hidden: Hidden) -> tuple[torch.Tensor, Hidden]:
        """Return logits [T, B, V] and the next state; inputs [T, B] int64, h and c [L, B, H]."""
        outputs, hidden = self.features(inputs, hidden)
        return self.sm_fc(outputs), hidden

    def loss(
        self, inputs: torch.Tensor, targets: torch.Tensor, hidden: Hidden, reduction: str = "mean"
    ) -> tuple[torch.Tensor, Hidden]:
        """Return the negative log likelihood, in nats, of targets [T, B], and the next state."""
        outputs, hidden = self.features(inputs, hidden)
        nll = fused_lstm.linear_cross_entropy(
            outputs, self.sm_fc.weight, targets, linear_bias=self.sm_fc.bias, reduction=reduction
        )
        return nll, hidden


def build_model(
    config: Config, vocab_size: int, lstm: str = "auto", fuse: str | None = None
) -> LM_LSTM:
    """Return the model that `config` describes, its weights drawn from torch's generator."""
    model = LM_LSTM(
        config.hidden_size,
        config.num_steps,
        config.batch_size,
        vocab_size,
        config.num_layers,
        config.keep_prob,
        lstm=lstm,
        fuse=fuse,
        tie_weights=config.tie_weights,
        variational_dropout=config.variational_dropout,
        weight_drop=config.weight_drop,
        cell=config.spec(),
        forget_bias=config.forget_bias or None,
    )
    if config.init_scope == "softmax":
        model.init_weights(config.init_scale)
    else:  # Zaremba's start: biases too
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -config.init_scale, config.init_scale)
        model.lstm.reset_cell()
    return model
