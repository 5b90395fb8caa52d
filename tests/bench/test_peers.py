"""Peers: their gate orders, their processes, and, where one is installed, their answers."""

from __future__ import annotations

import importlib
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import peers, suites
from bench.cases import Shape
from bench.contenders import NN_LSTM, Contender, everyone, trainers, why_not
from bench.core import Group, Pace, Work
from bench.layers import make, make_problem, work_of
from bench.peers import gates
from bench.peers.remote import PeerFailed, Remote, environment, to_arrays
from bench.suites import Options
from bench.training import PEERS_MODES, make_lesson
from tolerance import assert_close

CPU = torch.device("cpu")
SHAPE = Shape(3, 2, 5, 7, 2)
PROBLEM = make_problem(SHAPE)
QUICK = Pace(seconds=0, least=2, most=2, warmup=0)


def group_of(problem, *entered: Contender) -> Group:
    """Peers, and nn.LSTM, on a problem."""
    return Group(work_of(problem, {c.label: make(c, problem) for c in entered}))


@pytest.mark.parametrize("order", [gates.PYTORCH, gates.TENSORFLOW, gates.KERAS])
def test_reordering_gates_moves_whole_blocks_and_back(order):
    weight = np.arange(8 * 3).reshape(8, 3)
    moved = gates.reorder(weight, gates.PYTORCH, order)
    for place, gate in enumerate(order):
        own = gates.PYTORCH.index(gate)
        np.testing.assert_array_equal(
            moved[2 * place : 2 * place + 2], weight[2 * own : 2 * own + 2]
        )
    np.testing.assert_array_equal(gates.reorder(moved, order, gates.PYTORCH), weight)


def test_the_joint_kernel_computes_pytorchs_gates():
    layer = gates.layers(to_arrays(PROBLEM.named()))[0]
    kernel, bias = gates.joint_kernel(layer, gates.TENSORFLOW)
    x, h = PROBLEM.x[0].numpy(), torch.randn(SHAPE.B, SHAPE.H).numpy()
    i, g, f, o = np.split(np.concatenate([x, h], 1) @ kernel + bias, 4, axis=1)
    ours = x @ layer["weight_ih"].T + h @ layer["weight_hh"].T + layer["bias_ih"] + layer["bias_hh"]
    found = torch.from_numpy(np.concatenate([i, f, g, o], 1))
    assert_close(found, torch.from_numpy(ours), "gates")


def test_from_joint_undoes_the_joint_kernel():
    layer = gates.layers(to_arrays(PROBLEM.named()))[0]
    kernel, _ = gates.joint_kernel(layer, gates.TENSORFLOW)
    bias = gates.reorder(layer["bias_ih"], gates.PYTORCH, gates.TENSORFLOW)
    found = gates.from_joint(0, kernel, bias, gates.TENSORFLOW)
    np.testing.assert_array_equal(found["weight_ih_l0"], layer["weight_ih"])
    np.testing.assert_array_equal(found["weight_hh_l0"], layer["weight_hh"])
    np.testing.assert_array_equal(found["bias_hh_l0"], layer["bias_ih"])


def test_a_peer_that_is_absent_is_skipped_with_the_reason(monkeypatch):
    absent = peers.Peer("jax_scan", "no_such_library")
    monkeypatch.setitem(peers.PEERS, "absent", absent)
    why = peers.missing("absent", CPU)
    assert why == "no_such_library is not installed; make peers, or pip install '.[peers]'"


def test_a_peer_is_not_run_in_another_precision_than_the_rest():
    half = make_problem(SHAPE, dtype=torch.bfloat16)
    with pytest.raises(PeerFailed, match="jax: does not run in bfloat16 here"):
        make(Contender("jax", "jax", None, peer=True), half)()


def test_peers_of_gpus_say_so():
    for name, peer in peers.PEERS.items():
        if "cpu" not in peer.devices:
            assert peers.missing(name, CPU) == "runs on cuda, not on cpu"


def test_the_environment_limits_threads():
    found = environment(3, CPU)
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("contender", [c for c in everyone() if c.peer], ids=lambda c: c.label)
def test_an_installed_peer_computes_what_nn_lstm_does(contender):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if why := why_not(contender, device):
        pytest.skip(f"{contender.label}: {why}")
    group = group_of(make_problem(SHAPE, device), contender)
    assert group.failed == {}
    samples = group.time(["inference", "step"], QUICK)
    modes = [m for m in ("inference", "step") if m in peers.PEERS[contender.engine].modes]
    assert [mode for _, mode in samples] == modes
    assert all(s > 0 for turns in samples.values() for turn in turns for s in turn)
    group.close()


@pytest.mark.parametrize("contender", [c for c in trainers() if c.peer], ids=lambda c: c.label)
def test_an_installed_peer_learns_as_the_reference_does(contender):
    if why := why_not(contender, CPU):
        pytest.skip(f"{contender.label}: {why}")
    lesson = make_lesson("small")
    call = partial(lambda: Remote(contender.engine, lesson.named()).call(PEERS_MODES))
    group = Group(Work({contender.label: call}, lesson.expected))
    assert group.failed == {}
    assert group.time(["train", "rest"], QUICK).keys() == {
        (contender.label, "train"),
        (contender.label, "rest"),
    }
    group.close()


# --- the process, with a peer made of NumPy that holds nn.LSTM's answer ---

STAND_IN = """
    import os, sys, numpy as np

    class Peer:
        def __init__(self, problem, threads):
            self.found = dict(np.load(os.environ["STAND_IN_ANSWER"]))
            print("a library that talks on standard output")

        def answer(self):
            return self.found

        def step(self):
            return sum(range(1000))

        def inference(self):
            sys.exit("out of memory")

    build = Peer
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A peer of any name, as a module that the worker finds on PYTHONPATH."""
    answer = {k: v.numpy() for k, v in PROBLEM.expected().items()}
    np.savez(tmp_path / "answer.npz", **answer)
    (tmp_path / "stand_in.py").write_text(textwrap.dedent(STAND_IN))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, stand_in\nsys.modules['bench.peers.jax_scan'] = stand_in\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN_ANSWER", str(tmp_path / "answer.npz"))
    return Contender("jax", "jax", None, peer=True)


def test_a_peer_answers_and_is_timed_in_its_own_process(stand_in):
    group = group_of(PROBLEM, stand_in)
    assert group.failed == {}
    assert group.errors == {"jax": 0.0}
    assert len(group.time(["step"], QUICK)["jax", "step"]) == 2
    assert group.time(["backward"], QUICK) == {}, "it has no such mode"
    turn = group.calls["jax"].turn("step")
    assert len(turn(5, 0.0, 0.0)) == 5
    assert len(turn(1, 0.05, 0.0)) > 5
    group.close()


@pytest.mark.parametrize("modes", [("inference",), ("inference", "step")], ids=str)
def test_only_who_cannot_train_may_leave_out_gradients(stand_in, tmp_path, monkeypatch, modes):
    answer = {k: v.numpy() for k, v in PROBLEM.expected().items() if not k.endswith(".grad")}
    np.savez(tmp_path / "answer.npz", **answer)
    monkeypatch.setitem(peers.PEERS, "jax", peers.PEERS["jax"]._replace(modes=modes))
    group = group_of(PROBLEM, stand_in)
    if "step" in modes:
        assert "gave no bias_hh_l0.grad" in str(group.failed["jax"])
    else:
        assert group.failed == {}
    group.close()


def test_openvino_in_bfloat16():
    contender = Contender("openvino", "openvino", None, peer=True)
    if why := why_not(contender, CPU):
        pytest.skip(why)
    group = group_of(make_problem(SHAPE, dtype=torch.bfloat16), contender)
    assert group.failed == {}
    group.close()


def test_a_race_goes_on_without_a_peer_that_dies(stand_in):
    group = group_of(PROBLEM, NN_LSTM, stand_in)
    samples = group.time(["inference"], QUICK)
    assert {case: len(sample) for case, sample in samples.items()} == {("cudnn", "inference"): 2}
    assert str(group.failed["jax"]) == "jax: out of memory"
    group.close()


def test_a_peer_that_hangs_is_ended(stand_in, monkeypatch):
    remote = Remote("jax", PROBLEM.named())
    remote.answer()
    monkeypatch.setattr("bench.peers.remote.PATIENCE", 0.2)
    monkeypatch.setattr(remote._process.stdin, "flush", lambda: None)
    with pytest.raises(PeerFailed, match="ended by SIGKILL"):
        remote.burst("step")
    remote.close()


def test_a_library_that_is_too_old_is_one_line(monkeypatch):
    versions = {"tensorflow": "2.9.1"}
    monkeypatch.setattr(peers, "installed", lambda: versions)
    assert peers.missing("keras", CPU) == (
        "tensorflow 2.9.1 is older than 2.16; make peers, or pip install '.[peers]'"
    )
    versions["tensorflow"] = "2.16.0rc1"
    assert peers.missing("keras", CPU) is None
    versions["tensorflow"] = ""  # under another name, as tensorflow-cpu is
    assert peers.missing("keras", CPU) is None


def test_a_peer_that_cannot_start_says_why_in_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['bench.peers.jax_scan'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    remote = Remote("jax", PROBLEM.named())
    with pytest.raises(PeerFailed, match=r"jax: .*bench\.peers\.jax_scan"):
        remote.answer()
    remote.close()


def test_every_peer_has_its_module():
    for peer in peers.PEERS.values():
        name = f"bench.peers.{peer.module}"
        assert importlib.util.find_spec(name) is not None, name
    assert "tensorflow" not in sys.modules, "a peer's library was imported into this process"


def test_another_checkouts_contender_takes_turns_with_this_ones():
    """Here both are this one; each has a process of its own, and the same answer."""
    torch.set_num_threads(1)
    root = Path(__file__).parents[2]
    options = Options(before=root, device=CPU, engines="cudnn", quick=False)
    (part,) = suites.parts("layers/growing").values()
    o = Options(
        **vars(options) | {"dtype": torch.float32, "modes": ("step",)}, contenders=part.contenders
    )
    work = part.setup(part.cases[0], o)
    both = suites.of_checkouts("layers/growing", part, part.cases[0], "float32", work, options)
    assert list(both.calls) == ["cudnn, before", "cudnn"]
    group = Group(both)
    assert group.failed == {}
    assert all(len(turns) == 2 for turns in group.time(["step"], QUICK).values())
    group.close()
