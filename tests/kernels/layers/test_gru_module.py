"""`GRU` as a module: nn.GRU's arguments, what is around a call, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fused_lstm
from fused_lstm.call import choose
from fused_lstm.call.spec import GRU, Spec, of_schema
from gru import every_top, make_modules
from lanes import Case


def test_arguments_and_state_dict_are_nn_grus():
    given, own = (3, 4, 2, True, True, 0.5, True), {"device": "cpu", "dtype": torch.float64}
    torch.manual_seed(3)
    ours = fused_lstm.GRU(*given, **own, engine="loop")
    torch.manual_seed(3)
    theirs = nn.GRU(*given, **own)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    for one, other in ((ours, nn.GRU(*given, **own)), (theirs, fused_lstm.GRU(*given, **own))):
        other.load_state_dict(one.state_dict())
        assert torch.equal(other.weight_hh_l1_reverse, one.weight_hh_l1_reverse)
    assert repr(ours) == repr(theirs).replace(")", ", engine='loop')")
    with pytest.raises(TypeError, match="proj_size"):
        fused_lstm.GRU(3, 4, proj_size=2)


def test_a_packed_result_is_packed_as_the_input_was():
    packed = pack_sequence([torch.randn(2, 3), torch.randn(4, 3)], enforce_sorted=False)
    y, h_n = fused_lstm.GRU(3, 4, engine="loop")(packed)
    assert type(y) is PackedSequence
    assert torch.equal(y.unsorted_indices, packed.unsorted_indices)
    assert h_n.shape == (1, 2, 4)


def test_scripted_it_is_nn_gru():
    theirs, ours = make_modules(Case(), "loop", None, torch.float32)
    scripted, x = torch.jit.script(Model(ours)), torch.randn(3, 2, 3)
    for a, b in zip(scripted(x), theirs(x), strict=True):
        assert torch.equal(a, b)


class Model(nn.Module):
    def __init__(self, gru: nn.Module) -> None:
        super().__init__()
        self.gru = gru

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.gru(x)


@pytest.mark.filterwarnings("ignore:engine='auto'")
def test_auto_takes_an_engine_that_has_it(monkeypatch):
    cpu = torch.device("cpu")
    engine = choose.choose("auto", None, cpu, GRU).engine
    assert choose.ENGINES[engine].runs(GRU)
    monkeypatch.setattr("fused_lstm.native.missing", lambda device: "not built")
    engine = choose.choose.__wrapped__("auto", None, cpu, GRU).engine
    assert choose.ENGINES[engine].runs(GRU)


# --- errors ---

WRONG = {
    "engine": ({"engine": "cuda"}, "engine: got 'cuda'; expected 'auto' or one of"),
    "level": ({"engine": "loop", "fuse": "steps"}, "fuse: got 'steps'; expected one of none"),
    "recompute": ({"recompute": 0}, "recompute: got 0; expected None or a number of steps"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_no_module_can_be(options, message):
    with pytest.raises(ValueError, match=message):
        fused_lstm.GRU(3, 4, **options)


@pytest.mark.parametrize(
    ("engine", "fuse"),
    [(name, fuse) for name, one in choose.ENGINES.items() for fuse in one.fuses or (None,)
     if not one.has("gru", None, fuse)],
)  # fmt: skip
def test_what_has_no_gru_says_so(engine, fuse):
    with pytest.raises(
        ValueError, match=r"cell: got 'gru' .* does not have it; expected engine 'loop'"
    ):
        fused_lstm.GRU(3, 4, engine=engine, fuse=fuse)


BAD = {
    "a pair": (lambda x, h: (x, (h, h)), "hx: got tuple; expected a tensor, h_0"),
    "rank": (lambda x, h: (x, h[0]), r"h_0: got shape \[3, 4\]; expected \[2, 3, 4\]"),
    "size": (lambda x, h: (x, h[..., :3]), r"h_0: got shape \[2, 3, 3\]; expected \[2, 3, 4\]"),
    "batch": (lambda x, h: (x, h[:, :2]), r"h_0: got shape \[2, 2, 4\]; expected \[2, 3, 4\]"),
    "input": (lambda x, h: (x[..., :2], h), r"input: .* with I = 3"),
    "dtype": (
        lambda x, h: (x.double(), h),
        "x: got torch.float64; expected torch.float32, the weights'",
    ),
}


@every_top
@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_input_names_the_argument(spoil, message, engine, fuse):
    ours = fused_lstm.GRU(3, 4, 2, engine=engine, fuse=fuse)
    with pytest.raises(ValueError, match=message):
        ours(*spoil(torch.randn(5, 3, 3), torch.randn(2, 3, 4)))


def test_the_cell_has_its_options_and_one_state():
    with pytest.raises(ValueError, match="peephole: got True; expected False with cell 'gru'"):
        Spec("gru", peephole=True)
    x, (h, c) = torch.randn(3, 2, 4), torch.randn(2, 1, 2, 5)
    weights = list(nn.GRU(4, 5).parameters())
    _, (h_n, c_n) = fused_lstm.lstm(x, (h, h), weights, cell=GRU, engine="loop")
    assert torch.equal(h_n, c_n)
    with pytest.raises(
        ValueError, match="state: got two tensors; expected h_0 twice with cell 'gru'"
    ):
        fused_lstm.lstm(x, (h, c), weights, cell=GRU)
    assert of_schema(1, 4, 0.0, None, True, **GRU.schema) == GRU
    assert GRU.weights(3, 5, 5) == {
        "weight_ih": (15, 3), "weight_hh": (15, 5), "bias_ih": (15,), "bias_hh": (15,),
    }  # fmt: skip
