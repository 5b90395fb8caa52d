"""Reinforcement learning's recurrent policies: the packages themselves, with ours in them."""

from __future__ import annotations

import pytest
import torch

import fused_lstm
from tolerance import assert_close

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore"),  # other people's
]


def rollout(B=3, T=9, I=5, H=6, layers=1, states=("h", "c")):
    """A TensorDict of episodes that end inside it, each state zero where one begins."""
    from tensordict import TensorDict

    is_init = torch.rand(B, T, 1) < 0.3
    data = {"x": torch.randn(B, T, I), "is_init": is_init}
    for name in states:
        data[name] = torch.randn(B, T, layers, H).masked_fill(is_init[..., None], 0.0)
    return TensorDict(data, [B, T])


@pytest.mark.parametrize("name", ["LSTMModule", "GRUModule"])
@pytest.mark.parametrize("layers", [1, 2])
def test_torchrl_is_init_becomes_resets(name, layers):
    torchrl = pytest.importorskip("torchrl.modules", reason="torchrl is not installed")
    from fused_lstm.integrations import torchrl as ours

    states = ["h", "c"] if name == "LSTMModule" else ["h"]
    options = {
        "input_size": 5, "hidden_size": 6, "num_layers": layers, "in_keys": ["x", *states],
        "out_keys": ["y", *(f"{s}'" for s in states)], "default_recurrent_mode": True,
    }  # fmt: skip
    module = getattr(ours, name)(**options)
    stock = getattr(torchrl, name)(**options)
    stock.load_state_dict(module.state_dict())
    td, found = rollout(layers=layers, states=states), {}
    for kind, each in (("ours", module), ("stock", stock)):
        y = each(td.clone())["y"]
        found[kind] = [y.detach(), *torch.autograd.grad(y.sin().sum(), list(each.parameters()))]
    for n, (a, b) in enumerate(zip(*found.values(), strict=True)):
        assert_close(a, b, f"{n} of y and the gradients")


def test_torchrl_a_state_that_is_not_zero_is_torchrls():
    pytest.importorskip("torchrl.modules", reason="torchrl is not installed")
    from fused_lstm.integrations.torchrl import resets_of

    is_init = torch.tensor([[True, False, True]])
    h = torch.ones(1, 3, 1, 2)
    assert resets_of(is_init, h) is None
    h[:, 2] = 0
    assert resets_of(is_init, h).tolist() == [[False, False, True]]


def test_torchrl_itself_under_install():
    """It asks isinstance(self.lstm, nn.LSTM), and crashed on a converted one."""
    torchrl = pytest.importorskip("torchrl.modules", reason="torchrl is not installed")
    module = torchrl.LSTMModule(
        input_size=5, hidden_size=6, in_keys=["x", "h", "c"], out_keys=["y", "h'", "c'"],
        default_recurrent_mode=True,
    )  # fmt: skip
    td = rollout()
    expected = module(td.clone())
    with fused_lstm.install():
        found = module(td.clone())
    for name in ("y", "h'", "c'"):
        assert_close(found[name].detach(), expected[name].detach(), name)


@pytest.mark.parametrize("starts", [0.0, 0.4])
def test_recurrent_ppo(starts):
    pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
    from gymnasium.spaces import Box
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

    from fused_lstm.integrations.sb3 import MlpLstmPolicy

    space = Box(-1, 1, (4,))
    stock = RecurrentActorCriticPolicy(space, Box(-1, 1, (2,)), lambda _: 1e-3)
    ours = MlpLstmPolicy(space, Box(-1, 1, (2,)), lambda _: 1e-3)
    ours.load_state_dict(stock.state_dict())
    B, T = 3, 7
    states = tuple(torch.randn(1, B, 256) for _ in "hc")
    features, begun = torch.randn(B * T, 4), (torch.rand(B * T) < starts).float()
    found = {}
    for name, policy in (("stock", stock), ("ours", ours)):
        y, last = policy._process_sequence(features, states, begun, policy.lstm_actor)
        grads = torch.autograd.grad(y.sin().sum(), list(policy.lstm_actor.parameters()))
        found[name] = [y.detach(), *(t.detach() for t in last), *grads]
    for n, (a, b) in enumerate(zip(*found.values(), strict=True)):
        assert_close(a, b, f"{n} of y, the states and the gradients")


def test_recurrent_ppo_learns_and_loads(tmp_path):
    ppo = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed").RecurrentPPO
    from fused_lstm.integrations.sb3 import MlpLstmPolicy

    model = ppo(MlpLstmPolicy, "CartPole-v1", n_steps=32, batch_size=16, n_epochs=1, seed=0)
    model.learn(64)
    model.save(tmp_path / "model")
    again = ppo.load(tmp_path / "model")
    assert type(again.policy) is MlpLstmPolicy
    observation = torch.zeros(1, 4).numpy()
    assert (model.predict(observation, deterministic=True)[0]
            == again.predict(observation, deterministic=True)[0])  # fmt: skip


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_rsl_rl_runs_and_exports_under_install(kind):
    """Both its exports ask isinstance(rnn, nn.LSTM), and refused a converted one."""
    pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed")
    from rsl_rl.models.rnn_model import RNNModel
    from tensordict import TensorDict

    x, done = torch.randn(3, 5), torch.tensor([0, 1, 0])
    observed = TensorDict({"policy": x}, [3])
    model = RNNModel(observed, {"actor": ["policy"]}, "actor", 2, rnn_type=kind, rnn_hidden_dim=6)
    expected = []
    with torch.no_grad():
        for _ in range(2):
            expected.append(model(observed))
            model.reset(done)
        model.reset()
        with fused_lstm.install():
            for step in expected:
                assert_close(model(observed), step, "y")
                model.reset(done)
            exported = torch.jit.script(model.as_jit())
            one = model.as_jit()(x[:1])
            assert_close(exported(x[:1]), one, "scripted")
            onnx = model.as_onnx()
            program = torch.onnx.export(onnx, onnx.get_dummy_inputs(), dynamo=True, verbose=False)
    assert [n.op_type for n in program.model_proto.graph.node].count(kind.upper()) == 1


def test_tianshou_runs_under_install():
    pytest.importorskip("tianshou", reason="tianshou is not installed")
    from tianshou.utils.net.common import Recurrent

    model = Recurrent(layer_num=2, state_shape=4, action_shape=3, hidden_layer_size=8)
    x = torch.randn(5, 7, 4).numpy()
    expected = model(x)[0].detach()
    with fused_lstm.install():
        assert_close(model(x)[0].detach(), expected, "y")
