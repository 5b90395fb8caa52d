"""The library's cells. Printed by fused_lstm.cells.generate. Do not edit."""

# ruff: noqa: E501

from .kind import Kind

CELLS = {
    "lstm": Kind(4, options=("layer_norm", "peephole", "coupled", "zoneout", "recurrent_dropout", "num_heads"), states=("h", "c"), projects=True, is_lstm=True, kept=4),
    "gru": Kind(3, options=("layer_norm", "zoneout", "recurrent_dropout", "num_heads"), apart=1, kept=4),
    "rnn_tanh": Kind(1, options=("num_heads",)),
    "rnn_relu": Kind(1, options=("num_heads",)),
    "slstm": Kind(4, options=("recurrent_clip", "num_heads"), states=("h", "c", "n", "m"), of_torch=False, kept=5, wide=True),
    "slstm_exponential": Kind(4, options=("recurrent_clip", "num_heads"), states=("h", "c", "n", "m"), of_torch=False, kept=4, wide=True),
    "gru_dreamer": Kind(3, options=("num_heads",), of_torch=False, kept=4),
}  # fmt: skip
