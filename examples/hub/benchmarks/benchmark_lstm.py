"""nn.LSTM and nn.GRU beside these kernels; `kernels benchmark REPOSITORY` runs it.

The sizes are those of Zaremba et al. (2014): T time steps of B = 20 rows, H units, two layers.
"""

import torch
from kernels.benchmark import Benchmark


class Layers(Benchmark):
    """Inference: each workload runs a layer's kernels, and PyTorch's own to verify them."""

    seed = 0

    def build(self, kind: str, T: int, H: int) -> None:
        """Make a layer of torch.nn, the forward that replaces its own, and an input [T, B, H]."""
        self.layer = getattr(torch.nn, kind)(H, H, 2, device=self.device).eval()
        self.forward = getattr(self.kernel.layers, kind).forward
        self.x = torch.randn(T, 20, H, device=self.device)

    @torch.inference_mode()
    def run(self) -> None:
        self.out = self.forward(self.layer, self.x)[0]

    @torch.inference_mode()
    def expected(self) -> torch.Tensor:
        return self.layer(self.x)[0]

    def setup_lstm_small(self) -> None:
        self.build("LSTM", 20, 200)

    def setup_lstm_medium(self) -> None:
        self.build("LSTM", 35, 650)

    def setup_gru_small(self) -> None:
        self.build("GRU", 20, 200)

    benchmark_lstm_small = benchmark_lstm_medium = benchmark_gru_small = run
    verify_lstm_small = verify_lstm_medium = verify_gru_small = expected
