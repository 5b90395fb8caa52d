"""stable-baselines3: RecurrentPPO's policy for CartPole."""

import torch
from gymnasium.spaces import Box, Discrete
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from fused_lstm.integrations.sb3 import MlpLstmPolicy

from .case import Case, mean_square


def case() -> Case:
    """Return the policy: inference is a step of 8 environments, training 128 steps of 8."""
    kinds = RecurrentActorCriticPolicy, MlpLstmPolicy
    stock, policy = (kind(Box(-1, 1, (4,)), Discrete(2), lambda _: 1e-3) for kind in kinds)
    policy.load_state_dict(stock.state_dict())
    pair = torch.zeros(1, 8, 256), torch.zeros(1, 8, 256)
    states, observed = RNNStates(pair, pair), torch.randn(8 * 128, 4)
    starts, actions = (torch.rand(8 * 128) < 0.03).float(), torch.randint(2, (8 * 128,))

    def of(model: RecurrentActorCriticPolicy, resets: Case | None = None) -> Case:
        return Case(
            model,
            lambda: model(observed[:8], states, torch.zeros(8), deterministic=True),
            lambda: mean_square(model.evaluate_actions(observed, actions, states, starts)),
            resets,
        )

    return of(stock, of(policy))
