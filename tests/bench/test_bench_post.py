"""The topic `post`: who is refused, missing or dies, and what the table says of the rest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from bench import peers, training
from bench.__main__ import main
from bench.contenders import Contender, trainers, why_not
from bench.measure.check import LOSSES, WrongAnswer, require_right
from bench.race import line_up
from bench.report import systems
from bench.report.results import load
from bench.training import Absent, Learner, expected, make_lesson

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
STOCK = Contender("stock-cudnn", "cudnn", None, stock=True)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Every preset takes milliseconds, and is clipped from the first step on."""
    torch.set_num_threads(1)
    small = dataclasses.replace(
        training.PRESETS["medium"],
        hidden_size=7,
        num_steps=3,
        batch_size=2,
        max_grad_norm=0.3,
        init_scale=0.5,
    )
    for size in ("small", "medium"):
        monkeypatch.setitem(training.PRESETS, size, small)
    monkeypatch.setattr(training, "VOCABULARY", 13)


# --- the lesson, and who learns it here ---


def test_a_lesson_is_the_same_every_time():
    first, second = make_lesson("small"), make_lesson("small")
    assert torch.equal(first.inputs, second.inputs)
    assert all(map(torch.equal, first.weights.values(), second.weights.values()))
    assert torch.equal(first.targets[:, :-1], first.inputs[:, 1:])
    assert first.words == 6
    assert first.named()["scale"] == 3  # medium sums over time


def test_at_its_real_size_too_small_has_a_gradient_that_is_clipped(monkeypatch):
    """In the last step that is checked: a clip that is left out would else pass."""
    monkeypatch.undo()
    given = make_lesson("small")
    lazy = Learner(STOCK, given)
    lazy.way.max_norm = 1e9
    right = expected(given)
    require_right("right", Learner(STOCK, given).answer(), right)
    with pytest.raises(WrongAnswer, match=r"update of .* differs"):
        require_right("lazy", lazy.answer(), right)


@pytest.mark.parametrize("contender", [c for c in trainers() if not c.peer], ids=lambda c: c.label)
def test_every_engine_learns_as_the_reference_does(contender):
    if why := why_not(contender, CPU):
        pytest.skip(f"{contender.label}: {why}")
    given = make_lesson("small")
    answer = Learner(contender, given).answer()
    assert require_right(contender.label, answer, expected(given)) < 1e-4


def without_clip(way):
    way.max_norm = 1e9


def twice_the_rate(way):
    way.optimizer.param_groups[0]["lr"] *= 2


def mean_loss(way):
    way.scale = 1


def frozen_bias(way):
    way.model.sm_fc.bias.requires_grad_(False)


@pytest.mark.parametrize("spoil", [without_clip, twice_the_rate, mean_loss, frozen_bias])
def test_another_training_step_is_refused(spoil, monkeypatch):
    given = make_lesson("small")
    if spoil is mean_loss:  # a clipped gradient does not tell how long it was
        quiet = dataclasses.replace(given.config, max_grad_norm=1e3)
        given = dataclasses.replace(given, config=quiet)
    right, spoilt = expected(given), Learner(STOCK, given)
    spoil(spoilt.way)
    with pytest.raises(WrongAnswer, match=r"^spoilt: (losses differ|update of .* differs) from"):
        require_right("spoilt", spoilt.answer(), right)


def test_without_its_lstm_a_step_still_clips_and_updates_its_weights():
    learner = Learner(STOCK, make_lesson("small"))
    learner.model.lstm = Absent(learner.model.lstm)
    x = torch.randn(3, 2, 7, requires_grad=True)
    assert learner.model.lstm(x * 1, learner.hidden)[0].grad_fn is not None
    learner.step()
    gradients = [p.grad for p in learner.model.lstm.lstm.parameters()]
    assert len(gradients) == 8
    assert all(g is not None and not g.any() for g in gradients)
    assert learner.model.word_embeddings.weight.grad.any()


# --- peers: absent, too old, real ---


def test_a_library_that_is_too_old_is_one_line(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(peers.importlib.metadata, "version", lambda name: "2.9.1")
    assert peers.missing("keras", CPU) == (
        "tensorflow 2.9.1 is older than 2.16; make peers, or pip install '.[peers]'"
    )
    monkeypatch.setattr(peers.importlib.metadata, "version", lambda name: "2.16.0rc1")
    assert peers.missing("keras", CPU) is None


def test_a_library_under_another_name_is_tried(monkeypatch):
    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(peers.importlib.metadata, "version", unknown)
    assert peers.missing("tensorflow", CPU) is None


def test_the_oldest_versions_are_those_that_make_peers_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = " ".join(project["optional-dependencies"]["peers"])
    for peer in peers.PEERS.values():
        if peer.trains:
            assert f"{peer.requires}>={peer.at_least}" in wanted


@pytest.mark.parametrize("name", [n for n, peer in peers.PEERS.items() if peer.trains])
def test_an_installed_peer_learns_as_the_reference_does(name):
    if why := peers.missing(name, CPU):
        pytest.skip(f"{name}: {why}")
    race = line_up(make_lesson("small"), [Contender(name, name, None, peer=True)])
    assert race.failed == {}
    assert race.errors[name] < 1e-4
    for mode in ("train", "rest"):
        assert race.time(mode, 0, least=1, most=1, warmup=0)[name][0] > 0
    race.close()


# --- the command, with peers made of NumPy that know the answer ---

FAKE = """
    import os, signal, sys, numpy as np

    class Peer:
        def __init__(self, how):
            self.how, self.count = how, 0

        def answer(self):
            found = dict(np.load(os.environ["FAKE_ANSWER"]))
            if self.how == "wrong":
                found["losses"] = found["losses"] * 1.001
            return found

        def train(self):
            self.count += 1
            if self.how == "dies" and self.count == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        rest = train

    def module(how):
        def build_learner(lesson, threads):
            if how == "breaks":
                raise RuntimeError("no room left")
            return Peer(how)
        made = type(sys)("fake")
        made.build_learner = build_learner
        return made

    for name, how in zip(("tensorflow_cell", "tensorflow_xla", "keras_lstm", "jax_scan"),
                         os.environ["FAKE_HOW"].split()):
        sys.modules["bench.peers." + name] = module(how)
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """`fakes("fine dies ...")`: what becomes of TensorFlow, XLA, Keras and JAX, in that order."""
    given = expected(make_lesson("small"))
    np.savez(tmp_path / "answer.npz", **{name: value.numpy() for name, value in given.items()})
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'kernels'}")
    monkeypatch.setenv("FAKE_ANSWER", str(tmp_path / "answer.npz"))
    real = peers.missing

    def fakes(how: str) -> None:
        monkeypatch.setenv("FAKE_HOW", how)
        absent = dict(
            zip(("tensorflow", "tensorflow-xla", "keras", "jax"), how.split(), strict=True)
        )

        def missing(name, device):
            why = f"{name} is not installed; make peers" if absent.get(name) == "absent" else None
            return why if name in absent else real(name, device)

        monkeypatch.setattr(peers, "missing", missing)

    return fakes


def run(tmp_path, capsys, *options) -> tuple[str, dict]:
    file = tmp_path / "new" / "post.json"
    assert main(["post", "--seconds", "0.01", "--threads", "1", "--json", str(file), *options]) == 0
    return capsys.readouterr().out, json.loads(file.read_text())


def line_of(said: str, printed: str) -> str:
    """The table's; what was checked comes after it."""
    return next(line for line in printed.splitlines() if line.startswith(said))


def test_the_table_is_whole_with_all_peers(fakes, tmp_path, capsys):
    fakes("fine fine fine fine")
    printed, written = run(tmp_path, capsys)
    assert written["not_measured"].keys() <= {"native-layers", *(f"stock-native-{f}" for f in (
        "pointwise", "steps", "layers"))}  # fmt: skip
    timed = {(b["extra_info"]["label"], b["extra_info"]["size"]) for b in written["benchmarks"]}
    for label in ("tensorflow", "tensorflow-xla", "keras", "jax", "stock-cudnn", "stock-loop-none"):
        assert {(label, "small"), (label, "medium")} <= timed
    first = line_of("TensorFlow, step loop", printed)
    assert first.split()[3:5] == ["3,800", "1.00"]
    assert first.split()[7] == "1.00"
    assert re.search(r"^small: PyTorch with nn\.LSTM trains [\d.]+x as fast as", printed, re.M)
    losses = [b["extra_info"]["losses"] for b in written["benchmarks"]]
    for loss in losses:
        np.testing.assert_allclose(loss, losses[0], rtol=LOSSES[torch.float32])
    _, *shown = [line for line in printed.splitlines() if line.startswith("TensorFlow, Keras LSTM")]
    assert len(shown) == 2, "one for each size"
    assert all(f"{losses[0][2]:.5f}" in line for line in shown)
    assert "1 thread on" in printed.splitlines()[0]
    assert "torch 2" in printed.splitlines()[0]


def test_who_is_absent_wrong_dead_or_broken_has_one_line_and_the_rest_is_there(
    fakes, tmp_path, capsys
):
    fakes("absent wrong dies breaks")
    printed, written = run(tmp_path, capsys, "--sizes", "small")
    assert "tensorflow is not installed; make peers" in line_of("TensorFlow, step loop", printed)
    assert "losses differ from the reference's by 0.001" in line_of("the same under XLA", printed)
    assert "its process was ended by SIGKILL" in line_of("TensorFlow, Keras", printed)
    assert "RuntimeError: no room left" in line_of("JAX", printed)
    timed = {b["extra_info"]["label"] for b in written["benchmarks"]}
    assert {"stock-cudnn", "stock-loop-none", "cudnn"} <= timed
    assert not timed & {"tensorflow", "tensorflow-xla", "keras", "jax"}
    assert re.search(r"PyTorch, nn\.LSTM.* 7,400 +1\.95 +[\d,]+ +±\d+% +- +\d+%", printed)


def test_a_peer_that_hangs_is_ended(fakes, monkeypatch):
    from bench.peers import remote

    fakes("fine fine fine fine")
    race = line_up(make_lesson("small"), [Contender("jax", "jax", None, peer=True)])
    monkeypatch.setattr(remote, "PATIENCE", 0.2)
    monkeypatch.setattr(race.runners["jax"]._process.stdin, "flush", lambda: None)
    with pytest.raises(remote.PeerFailed, match="ended by SIGKILL"):
        race.runners["jax"].timed("train")()
    race.close()


# --- the table, from made-up times ---


@pytest.fixture
def results(tmp_path):
    return load(synthetic.write(tmp_path / "run.json", synthetic.everything()))


def test_the_factor_is_taken_apart(results):
    said = systems.explained(results, "small")
    rows = systems.rows_of(results, "small")
    first, post = rows["tensorflow"], rows["stock-cudnn"]
    whole, fast = first.time.median, post.time.median
    lstm, fused = 0.3 * whole, 0.12 * fast  # the shares of tests/bench/synthetic.py
    assert f"trains {whole / fast:.2f}x as fast" in said
    assert f"{1e3 * whole:.0f} ms a step {1e3 * lstm:.0f} are its LSTM" in said
    assert (
        f"takes {1e3 * fused:.0f}: that alone makes {whole / (whole - lstm + fused):.2f}x" in said
    )
    assert f"is {1e3 * (whole - lstm):.0f} ms there and {1e3 * (fast - fused):.0f} in" in said
    loop, top = rows["stock-loop-none"], rows["native-layers"]
    assert said.endswith(f"together {loop.time.median / top.time.median:.2f}x.")


def test_without_tensorflow_nothing_is_explained(tmp_path):
    labels = tuple(name for name in synthetic.TRAINING if name != "tensorflow")
    run = synthetic.everything(trained=labels)
    run["not_measured"]["tensorflow"] = "not installed"
    results = load(synthetic.write(tmp_path / "run.json", run))
    assert systems.sentences(results) == []
    row = systems.to_table(results).rows[0]
    assert row[:4] == ["TensorFlow, step loop", "3,800", "1.00", "not installed"]
    assert systems.to_text(results).count("not installed") == 1, "once for all sizes"


def test_the_posts_ratios():
    found = {line.label: (line.post, line.ratio) for line in systems.lines("cpu")}
    assert found["tensorflow-xla"] == ("3,420", "0.90")
    assert found["stock-cudnn"] == ("7,400", "1.95")
    assert found["keras"] == ("not given", "")


def test_on_a_gpu_the_fusions_are_tritons():
    labels = [line.label for line in systems.lines("cuda:0")]
    assert "triton-layers" in labels
    assert not any("native" in label for label in labels)
