"""The oracle is torch.nn where torch.nn has the cell; the lists have the pairs they promise."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from axes import AXES, CHECKED, KEPT, cases, first_may
from calls import check, compare, errors_of_plain_pytorch, give, make, names_of, theirs, wanted_of
from case import Case
from pairs import compatible
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fused_lstm import native
from tolerance import assert_close


@pytest.mark.parametrize(
    ("cell", "proj"),
    [("lstm", False), ("lstm", True), ("gru", False), ("rnn_tanh", False), ("rnn_relu", False)],
)
def test_the_oracle_is_torchs(cell, proj):
    case = Case(cell, "cudnn", T=6, B=4, layers=2, directions=2, proj=proj, rows="packed")
    module, given = make(case), give(case)
    how = {"bidirectional": True, "dtype": torch.float64}
    how |= {"proj_size": case.P} if proj else {}
    how |= {"nonlinearity": cell[4:]} if cell.startswith("rnn") else {}
    torchs = getattr(nn, cell[:3].upper() if cell[:3] == "rnn" else cell.upper())(3, 8, 2, **how)
    torchs.load_state_dict(module.state_dict())
    state = tuple(given.states) if cell == "lstm" else given.states[0]
    y, last = torchs(pack_padded_sequence(given.x, given.lengths), state)
    last = last if isinstance(last, tuple) else (last,)
    wanted = [pad_packed_sequence(y, total_length=case.T)[0], *last]
    found = theirs(case, dict(module.named_parameters()), given)
    for name, value in zip(("y", *(f"{n}_n" for n in names_of(case))), wanted, strict=True):
        assert_close(found[name], value, name)
    inputs = [*torchs.parameters()]
    a = torch.autograd.grad(sum((w * w).sum() for w in wanted), inputs)
    b = torch.autograd.grad(sum((found[n] ** 2).sum() for n in found), [*module.parameters()])
    for (name, _), x, z in zip(torchs.named_parameters(), a, b, strict=True):
        assert_close(z, x, name)


def test_what_layer_norm_makes_of_a_rounding_is_allowed_and_no_more():
    case = Case(
        "lstm", "native-steps", T=11, B=7, layers=3, rows="packed", state=False, bias=False,
        dtype="float32", by="sum", norm=True, peephole=True, proj=True, precision="bf16",
    )  # fmt: skip
    exact = wanted_of(case)
    allowed = errors_of_plain_pytorch(case, exact)
    name = "gain_ih_l0.grad"
    assert allowed[name] > 0.1
    if native.missing(torch.device("cpu")) is None:
        check(case, exact)
    with pytest.raises(AssertionError, match=name):
        compare(case, name, 5 * exact[name], exact[name], lambda: allowed)
    with pytest.raises(AssertionError, match="h_n"):
        compare(case, "h_n", 1.5 * exact["h_n"], exact["h_n"], lambda: allowed)


@pytest.mark.parametrize("axes", [CHECKED, KEPT, AXES], ids=["checked", "kept", "all"])
def test_every_pair_is_there(axes):
    there = set()
    for case in cases():
        cells = [(name, getattr(case, name)) for name in axes]
        if all(value in axes[name] for name, value in cells):
            there |= {frozenset(pair) for pair in combinations(cells, 2)}
    beside = compatible(axes, first_may)
    assert not {frozenset((one, other)) for one in beside for other in beside[one]} - there
    alone = [cell for cell, others in beside.items() if not others]
    assert not alone, "values that no case may have"
