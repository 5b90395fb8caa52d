"""A recurrent policy whose episodes end inside a rollout, by `resets=`.

The environment shows a number at the first step of an episode and asks for it at the last step. A
policy without memory is right once in four times. `resets=` is a mask [T, B]: where it is true,
the state of that environment is zeroed before the step, and no gradient crosses. So one call
learns from a rollout. `fused_lstm.integrations` does the same for the policies of TorchRL and
stable-baselines3.
"""

import torch
from torch import nn
from torch.distributions import Categorical

import fused_lstm

T, B, CUES = 24, 32, 4


class Recall:
    """B environments. An observation is the cue at the first step, and a flag at the last."""

    def __init__(self):
        self.left = torch.zeros(B, dtype=torch.int64)
        self.cue = torch.zeros(B, dtype=torch.int64)

    def step(self, action=None):
        """Return observation [B, CUES + 1], reward [B], and whether an episode begins [B]."""
        asked = self.left == 1
        reward = torch.zeros(B) if action is None else (asked & (action == self.cue)).float()
        self.left = self.left - 1
        begins = self.left <= 0
        self.left = torch.where(begins, torch.randint(2, 5, (B,)), self.left)
        self.cue = torch.where(begins, torch.randint(CUES, (B,)), self.cue)
        shown = nn.functional.one_hot(self.cue, CUES) * begins[:, None]
        return torch.cat([shown, (self.left == 1)[:, None]], 1).float(), reward, begins


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = fused_lstm.LSTM(CUES + 1, 32)
        self.action, self.value = nn.Linear(32, CUES), nn.Linear(32, 1)

    def forward(self, x, state, resets):
        """Return the policy, values [T, B] and the next state, for x [T, B, ...], resets [T, B]."""
        y, state = self.lstm(x, state, resets=resets)
        return Categorical(logits=self.action(y)), self.value(y)[..., 0], state


torch.manual_seed(0)
environment, policy = Recall(), Policy()
optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
observation, _, begins = environment.step()
state = (torch.zeros(1, B, 32), torch.zeros(1, B, 32))
for _update in range(25):
    first, rollout, right, asked = state, [], 0.0, 0.0
    for _ in range(T):  # act: T = 1, the state from step to step
        with torch.no_grad():
            actor, value, state = policy(observation[None], state, begins[None])
        action = actor.sample()
        following, reward, then = environment.step(action[0])
        rollout.append((observation, begins, action[0], actor.log_prob(action)[0], reward))
        right, asked = right + reward.sum(), asked + observation[:, -1].sum()
        observation, begins = following, then
    x, resets, actions, before, rewards = map(torch.stack, zip(*rollout, strict=True))
    returns, after = [None] * T, torch.zeros(B)
    for t in reversed(range(T)):  # returns do not cross episodes
        returns[t] = after = rewards[t] + torch.where(
            resets[t + 1] if t + 1 < T else begins, 0.0, after
        )
    returns = torch.stack(returns)
    for _epoch in range(4):  # PPO: the rollout in one call, from its first state
        actor, values, _ = policy(x, first, resets)
        advantage = (returns - values).detach()
        ratio = (actor.log_prob(actions) - before).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss = -gain + 0.5 * (returns - values).square().mean() - 0.01 * actor.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
recalled = float(right / asked)
print(f"{recalled:.0%} of the numbers are recalled")

together, _, _ = policy(x, first, resets)
alone, states = [], first
for t in range(T):
    step, _, states = policy(x[t : t + 1], states, resets[t : t + 1])
    alone.append(step.logits)
torch.testing.assert_close(torch.cat(alone), together.logits)
