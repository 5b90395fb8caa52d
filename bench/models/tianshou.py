"""Tianshou: the recurrent network of its DRQN."""

import numpy as np
from tianshou.utils.net.common import Recurrent

from .case import Case, of


def case() -> Case:
    """Return the network and a batch of 64 stacks of 16 observations."""
    model = Recurrent(layer_num=2, state_shape=8, action_shape=4, hidden_layer_size=128)
    return of(model, np.random.default_rng(0).standard_normal((64, 16, 8)).astype("float32"))
