"""`python examples/hub/example.py FOLDER`: a model's layers run a local build's kernels, offline.

FOLDER is what build.py wrote. Needs `pip install "kernels>=0.18"`, which refuses a build whose
files are not those of its digest before any of its code runs; fused_lstm need not be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from kernels import (
    LocalLayerRepository,
    Mode,
    get_local_kernel,
    kernelize,
    replace_kernel_forward_from_hub,
    use_kernel_forward_from_hub,
    use_kernel_mapping,
)


@use_kernel_forward_from_hub("SLSTM")
class SLSTM(nn.Module):
    """An sLSTM of one layer, with the parameters and attributes that the hub's layer reads."""

    def __init__(self, input_size: int, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        H, N = hidden_size, num_heads
        self.hidden_size, self.num_heads = H, N
        self.weight_ih_l0 = nn.Parameter(torch.randn(4 * H, input_size) / H)
        self.weight_hh_l0 = nn.Parameter(torch.randn(N, 4 * H // N, H // N) / H)
        self.bias_l0 = nn.Parameter(torch.zeros(4 * H))

    def forward(self, input, hx=None):
        h, c, n, m = hx or (input.new_zeros(1, input.shape[1], self.hidden_size),) * 4
        h, c, n, m, ys = h[0], c[0], n[0], m[0], []
        for x in input:
            heads = h.unflatten(-1, (self.num_heads, -1))
            recurrent = torch.einsum("bnk,ngk->bng", heads, self.weight_hh_l0)
            recurrent = recurrent.unflatten(-1, (4, -1)).transpose(1, 2).flatten(1)
            i, f, z, o = (x @ self.weight_ih_l0.T + recurrent + self.bias_l0).chunk(4, -1)
            forget = nn.functional.logsigmoid(f) + m
            m = torch.maximum(forget, i)
            i, f = torch.exp(i - m), torch.exp(forget - m)
            c, n = f * c + i * z.tanh(), f * n + i
            h = o.sigmoid() * c / n
            ys.append(h)
        return torch.stack(ys), tuple(s[None] for s in (h, c, n, m))


class Model(nn.Module):
    """Each of the three layers, on one input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 24)
        self.slstm = SLSTM(16, 24, 4)

    def forward(self, x):
        steps = x.transpose(0, 1)
        return self.lstm(x)[0], self.gru(steps)[0], self.slstm(steps)[0]


def main() -> None:
    """Compare each layer's results and gradients with the module's own."""
    if len(sys.argv) != 2:
        sys.exit("example.py: got no folder; expected what examples/hub/build.py wrote")
    folder = Path(sys.argv[1])
    try:
        kernel = get_local_kernel(folder)
    except (OSError, RuntimeError) as error:
        sys.exit(f"example.py: {error}")
    replace_kernel_forward_from_hub(nn.LSTM, "LSTM")
    replace_kernel_forward_from_hub(nn.GRU, "GRU")
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 7, 16)
    packed = pack_sequence([torch.randn(T, 16) for T in (5, 2, 4)], enforce_sorted=False)

    def results() -> list[torch.Tensor]:
        outputs = model(x)
        sum(y.square().sum() for y in outputs).backward()
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return [*outputs, model.lstm(packed)[0].data, *grads]

    expected = results()
    names = "LSTM", "GRU", "SLSTM"
    layers = {name: {"cpu": LocalLayerRepository(folder, layer_name=name)} for name in names}
    with use_kernel_mapping(layers):
        kernelize(model, mode=Mode.TRAINING, device="cpu")
    for value, wanted in zip(results(), expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
    engine = kernel.describe_engine("auto")
    print(f"{', '.join(names)}: values and gradients of {kernel.__name__}: {engine}")


if __name__ == "__main__":
    main()
