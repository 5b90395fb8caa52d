"""stable-baselines3's RecurrentPPO (of sb3-contrib) with episode_starts as `resets=`.

    from fused_lstm.integrations.sb3 import MlpLstmPolicy  # or CnnLstmPolicy, MultiInputLstmPolicy
    model = RecurrentPPO(MlpLstmPolicy, env)

sb3-contrib runs an LSTM step by step where an episode begins inside a sequence; here that is one
call. Policies, parameters and saved models are sb3-contrib's: either loads the other's.
"""

from __future__ import annotations

from typing import Any

from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from torch import Tensor

from ..call.run import lstm as run

__all__ = ["MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy"]


class Resets:
    """Mixin for the policies: one call with `resets=` in place of sb3-contrib's loop over steps."""

    @staticmethod
    def _process_sequence(
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: Any,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run features [B * T, I], whose episodes start where episode_starts [B * T] is not 0.

        Returns:
            h of the last layer [B * T, H], and the last states [L, B, H].
        """
        B = lstm_states[0].shape[1]
        x = features.reshape(B, -1, lstm.input_size).transpose(0, 1)
        resets = episode_starts.reshape(B, -1).T != 0
        y, states = run(
            x, lstm_states, lstm._flat_weights, lstm.dropout if lstm.training else 0.0,
            resets=resets, training=lstm.training,
        )  # fmt: skip
        return y.transpose(0, 1).flatten(0, 1), states


class MlpLstmPolicy(Resets, RecurrentActorCriticPolicy):
    """sb3_contrib.ppo_recurrent's policy of that name."""


class CnnLstmPolicy(Resets, RecurrentActorCriticCnnPolicy):
    """sb3_contrib.ppo_recurrent's policy of that name."""


class MultiInputLstmPolicy(Resets, RecurrentMultiInputActorCriticPolicy):
    """sb3_contrib.ppo_recurrent's policy of that name."""
