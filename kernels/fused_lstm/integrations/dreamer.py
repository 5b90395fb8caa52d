"""DreamerV3's GRU with block-diagonal weights (Hafner et al. 2023), on this library's engines.

    gru = fused_lstm.integrations.dreamer.BlockGRU(input_size, hidden_size, num_blocks=8)
    y, last = gru(x, state, resets)

A step, for each block, of its units of the state h and of all of x:

    r, a, u = BlockLinear([h, x]);  n = tanh(sigmoid(r) a);  u' = sigmoid(u - 1)
    h' = u' n + (1 - u') h

It differs from nn.GRU's: the reset gate multiplies x's part of the candidate too. `kernel` and
`bias` are those of DreamerV3's BlockLinear, with its names and layout. It is the recurrence by
itself: x must be known for all steps. DreamerV3's own step has layers in front of the gates that
see h (`dynhid`), and makes x of a sample of the step before; a call of one step serves there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import heads
from ..call.choose import check_engine
from ..call.spec import Spec, check_size
from .gates import run_gates


class BlockGRU(nn.Module):
    """A layer of DreamerV3's GRU.

    Args:
        input_size: F, features of x, which every block sees.
        hidden_size: H, units of the state (`deter`).
        num_blocks: N, blocks; K = H / N units each.
        engine: as fused_lstm.GRU takes it.

    `kernel` is [N, K + F, 3K], `bias` [3H], block by block: BlockLinear(3 * H, N)'s of [h, x].

    Raises:
        ValueError: H is no multiple of N; an unknown engine.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_blocks: int = 8,
        engine: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.engine = Spec("gru_dreamer", num_heads=num_blocks), engine
        check_engine(engine, None, self.spec)
        check_size(self.spec, hidden_size)
        self.input_size, self.hidden_size, self.num_blocks = input_size, hidden_size, num_blocks
        K = hidden_size // num_blocks
        where = {"device": device, "dtype": dtype}
        self.kernel = nn.Parameter(torch.empty(num_blocks, K + input_size, 3 * K, **where))
        self.bias = nn.Parameter(torch.empty(3 * hidden_size, **where))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel as DreamerV3 does, normal and cut off, by the inputs of a block."""
        std = self.kernel.shape[1] ** -0.5
        nn.init.trunc_normal_(self.kernel, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(self.bias)

    def forward(
        self, x: Tensor, state: Tensor | None = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over all steps.

        Args:
            x: [T, B, F].
            state: h before the first step [B, H]; zeros by default.
            resets: bool [T, B], true where a row's state is zero before that step (`is_first`).

        Returns:
            h after each step [T, B, H], and the last [B, H].
        """
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: got shape {list(x.shape)}; expected [T, B, {self.input_size}]")
        shape = [x.shape[1], self.hidden_size]
        if state is None:
            state = x.new_zeros(shape)
        if list(state.shape) != shape:
            raise ValueError(f"state: got shape {list(state.shape)}; expected {shape}")
        N, K = self.num_blocks, self.hidden_size // self.num_blocks
        weight_hh = heads.from_dreamer(self.kernel[:, :K])
        by_x = heads.from_dreamer(self.kernel[:, K:]).unflatten(1, (3, K)).transpose(0, 1)
        bias = self.bias.view(N, 3, K).transpose(0, 1).flatten()
        y, last = run_gates(
            self.spec, self.engine, F.linear(x, by_x.flatten(0, 2)), state[None], weight_hh, bias,
            None if resets is None else ~resets,
        )  # fmt: skip
        return y, last[0]

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}, num_blocks={self.num_blocks}"
        return f"{sizes}, engine={self.engine!r}"
