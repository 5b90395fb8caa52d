"""`python examples/with_sb3.py`: RecurrentPPO; needs `pip install fused-lstm sb3-contrib`.

The policy class is all that changes. A saved model loads with either class.
"""

from __future__ import annotations

import time

from sb3_contrib import RecurrentPPO

from fused_lstm.integrations.sb3 import MlpLstmPolicy


def main() -> dict[str, float]:
    """Train both policies for 1,024 steps; return the seconds that each took."""
    took = {}
    for name, policy in ("sb3-contrib's", "MlpLstmPolicy"), ("fused_lstm's", MlpLstmPolicy):
        model = RecurrentPPO(policy, "CartPole-v1", n_steps=256, seed=0, device="cpu")
        begin = time.perf_counter()
        model.learn(1024)
        took[name] = time.perf_counter() - begin
        print(f"{name} MlpLstmPolicy: 1,024 steps in {took[name]:.1f} s")
    return took


if __name__ == "__main__":
    main()
