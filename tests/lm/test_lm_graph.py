"""A training step in a graph gives what one without gives, to the bit, for every engine."""

import dataclasses
import json

import pytest
import torch

import fused_lstm
from lm import graph
from lm.command import UserError
from lm.graph import WARM_UP, GraphedStep
from lm.model import build_model
from lm.settings import PRESETS
from lm.train import main
from lm_cases import SMALL, make_trainer, refused
from recorder import Recorded

# Masks, clipping, a rate that falls each epoch, a carried state that starts anew.
SETTINGS = {"hidden_size": 8, "num_steps": 5, "batch_size": 4, "keep_prob": 0.5, "flat_epochs": 1,
            "epochs": 2, "max_grad_norm": 0.3}  # fmt: skip


def trained(corpus_dir, engine, graphs=None, **settings):
    """A run's weights and losses."""
    trainer = make_trainer(corpus_dir, lstm=engine, seed=3, eval=False, **SETTINGS | settings)
    for module in trainer.model.modules():  # gradients as on a GPU, where alone steps are recorded
        if isinstance(module, torch.nn.Embedding):
            module.sparse = False
    if graphs is not None:
        trainer.update = GraphedStep(trainer.train_step, carried=2, graphs=graphs)
    trainer.run()
    assert trainer.step == 2 * trainer.epoch_steps == 70
    return {**trainer.model.state_dict(), "losses": torch.tensor(trainer.losses)}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("engine", "settings"),
    [
        pytest.param("cudnn", {}, id="sgd"),
        pytest.param("cudnn", {"optimizer": "adam", "learning_rate": 0.01}, id="adam"),
        pytest.param("cudnn", {"weight_decay": 1e-3, "tie_weights": True}, id="decay-tied"),
        pytest.param("native", {"variational_dropout": True, "weight_drop": 0.2}, id="masks"),
        pytest.param("loop", {}, id="loop", marks=pytest.mark.slow),
    ],
)
def test_a_replayed_step_is_a_step(corpus_dir, engine, settings):
    if (why := fused_lstm.available_engines("cpu")[engine]) is not None:
        pytest.skip(why)
    graphs = Recorded()
    found = trained(corpus_dir, engine, graphs, **settings)
    assert (graphs.captures, graphs.replays) == (1, len(found["losses"]) - WARM_UP)
    assert_same_bits(found, trained(corpus_dir, engine, **settings))


def test_the_recorder_sees_what_a_graph_would_not_replay():
    """A number that Python holds is replayed as it was; so the tests above could fail."""
    held, seen = [1.0], torch.zeros(())

    def step(x):
        return (seen.add_(x * held[0]),)

    graphed = GraphedStep(step, graphs=Recorded())
    for number in range(WARM_UP + 4):
        held[0] = float(number)
        (found,) = graphed(torch.ones(()))
    assert float(found) == sum(range(WARM_UP)) + 4 * WARM_UP


def test_outputs_are_the_callers_own_and_the_state_is_carried():
    graphed = GraphedStep(lambda x, h: (x + h, h + 1), carried=1, graphs=Recorded())
    h, sums = torch.zeros(2), []
    for number in range(6):
        total, h = graphed(torch.full((2,), 10.0 * number), h)
        sums.append(total)
    assert [float(total[0]) for total in sums] == [11.0 * number for number in range(6)]
    given = torch.full((2,), 5.0)
    total, _ = graphed(given, given)  # a state from elsewhere
    assert (float(total[0]), float(given[0])) == (10.0, 5.0)


# --- the command ---


def test_a_cpu_is_refused_in_one_line(capsys):
    message = refused(capsys, main, "train", "--cuda-graph", "--device=cpu")
    assert message == "lm.train: --cuda-graph needs an NVIDIA GPU, and this run is on cpu\n"


def test_several_processes_are_refused():
    with pytest.raises(UserError, match="--cuda-graph is for one process, and there are 2"):
        graph.check_graphs(torch.device("cuda"), 2)


def test_what_cannot_be_captured_is_one_line(monkeypatch):
    """As a step that waits for the device: PyTorch's error, and one more as the capture ends."""

    class Capture:
        def __init__(self, graph, stream):
            pass

        def __enter__(self):
            pass

        def __exit__(self, *error):
            raise RuntimeError("CUDA error: capture was invalidated")

    def waits():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    with pytest.raises(UserError) as caught:
        graph.CudaGraphs().capture(waits)
    expected = (
        "a CUDA graph cannot hold this step: operation not permitted when stream is capturing"
    )
    assert str(caught.value) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["cudnn", "loop", "compile", "triton"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_on_a_gpu(corpus_dir, tmp_path, engine, optimizer):
    """Without dropout, whose masks a graph may draw otherwise; two epochs, two rates."""
    if (why := fused_lstm.available_engines("cuda")[engine]) is not None:
        pytest.skip(why)
    rate = {"sgd": 0.5, "adam": 0.01}[optimizer]
    options = [
        *SMALL.split(), f"--data={corpus_dir}", "--device=cuda", f"--lstm={engine}", "--no-eval",
        f"--optimizer={optimizer}", f"--learning-rate={rate}", "--max-grad-norm=0.3", "--epochs=2",
        "--flat-epochs=1", "--max-steps=70",
    ]  # fmt: skip
    losses = {}
    for name in ("--no-cuda-graph", "--cuda-graph"):
        file = tmp_path / f"{name}.json"
        assert main([*options, name, f"--summary={file}"]) == 0
        losses[name] = json.loads(file.read_text())["losses"]
    assert losses["--cuda-graph"] == pytest.approx(losses["--no-cuda-graph"], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["cudnn", "loop", "triton"])
def test_every_replay_draws_masks_of_its_own(engine):
    """With a rate of nothing, only the masks can change the loss of one batch."""
    if (why := fused_lstm.available_engines("cuda")[engine]) is not None:
        pytest.skip(why)
    config = dataclasses.replace(PRESETS["small"], **SETTINGS)
    model = build_model(config, 50, engine).cuda()
    ids = torch.randint(50, (2, 5, 4), device="cuda")

    def step(inputs, targets, h, c):
        loss, hidden = model.loss(inputs, targets, (h, c))
        loss.backward()
        return loss, *hidden

    graphed, found = GraphedStep(step, carried=2), set()
    for _ in range(12):
        loss, *_ = graphed(*ids, *model.init_hidden())
        found.add(float(loss))
    assert len(found) == 12
