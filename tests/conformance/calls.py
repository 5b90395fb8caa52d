"""Both sides of a `Case`: the library's call, and the oracle's, by the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import oracle
import own
import torch
from case import Case
from drawn import drawn
from rounding import Noise
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import fused_lstm
from bench import zoo
from fused_lstm import native
from fused_lstm.cells import compile
from fused_lstm.integrations.dreamer import BlockGRU
from fused_lstm.triton import op
from plans import ALONE, PATHS_BACKWARD, make_plan
from tolerance import GPU_NORM, TOLERANCE, near

INITIAL = {"zoo.normalized": (0.25, 1.0)}  # states of a call that is given none
# An error's norm as a part of the value's, where factors have few bits: one rounding of h a step,
# up to three layers.
NORM = {
    "float16": 2 * GPU_NORM["fp16"], "bfloat16": 2 * GPU_NORM["bf16"], "tf32": 1e-4, "bf16": 2e-2,
    "prepared-bfloat16": 2e-2, "prepared-int8": 3e-2, "prepared-float32": 1e-4,
}  # fmt: skip


# Deviations may be small, and then no number bounds what a rounding becomes. Of three layers with
# layer norm, peepholes and projections, and factors in bfloat16, 87 of 100 seeds have errors above
# NORM's, up to 26; a plain PyTorch loop with the same factors 89, up to 22. So a larger error is
# compared with that loop's. In 480 calls the worst were 6.7, 1.8 and 1.8 times as large.
OF_PLAIN_PYTORCH = 8


class Given(NamedTuple):
    """Time first, padded, in the case's dtype."""

    x: Tensor  # [T, B, I]
    states: list[Tensor]  # h_0 and the cell's others, without h
    lengths: Tensor  # [B]
    resets: Tensor | None  # [T, B]
    inputs: dict[str, Tensor]  # [T, B, 1] or [T, B, H], of a cell that has them

    @property
    def order(self) -> Tensor:
        """Each row's place by falling length."""
        return self.lengths.argsort(descending=True, stable=True).argsort()


def user_cell(case: Case) -> Any:
    source, _, name = case.cell.partition(".")
    if source == "drawn":
        return drawn(int(name))
    return getattr({"zoo": zoo, "own": own}[source], name) if name else None


def names_of(case: Case) -> list[str]:
    """The states that a call takes and returns, h first."""
    cell = user_cell(case)
    others = oracle.STATES[case.kind].split() if cell is None else cell.states
    return ["h", *(name for name in others if name != "h")]


def make(case: Case) -> nn.Module:
    """The module, every weight of it far from where it begins."""
    engine, _, fuse = case.engine.partition("-")
    options: dict[str, Any] = {
        "num_layers": case.layers, "bias": case.bias, "batch_first": case.rows == "batch_first",
        "dropout": case.drop, "bidirectional": case.directions == 2, "dtype": torch.float64,
        "engine": engine, "fuse": fuse or None, "num_heads": case.heads,
        "recompute": case.recompute, "reverse": case.directions < 0,
    }  # fmt: skip
    cell, sizes = user_cell(case), (case.I, case.H)
    if case.cell in ("lstm", "gru") or cell is not None:
        zoneout = case.zoneout
        if case.cell == "gru" or (cell is not None and cell.states == ("h",)):
            zoneout = case.zoneout[0]
        options |= {"layer_norm": case.norm, "recurrent_dropout": case.rdrop, "zoneout": zoneout}
    if case.cell == "lstm":
        options |= {"peephole": case.peephole, "coupled": case.coupled}
    if case.proj:
        options["proj_size"] = case.P
    if case.units:
        options["units"] = dict(case.units)
    torch.manual_seed(case.seed)
    module: Any
    if case.cell == "dreamer":
        module = BlockGRU(*sizes, case.heads, engine, dtype=torch.float64)
    elif cell is not None:
        module = fused_lstm.Recurrent(cell, *sizes, **options)
    elif case.kind == "slstm":
        how = {"exponential_forget": case.cell != "slstm", "recurrent_clip": case.clip}
        module = fused_lstm.SLSTM(*sizes, **options, **how)
    elif case.cell.startswith("rnn"):
        module = fused_lstm.RNN(*sizes, nonlinearity=case.cell[4:], **options)
    else:
        module = getattr(fused_lstm, case.cell.upper())(*sizes, **options)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.4 / (p.shape[-1] ** 0.5 if p.dim() > 1 else 1.0))
    module.to(getattr(torch, case.dtype)).train(case.training)
    return module.requires_grad_(case.needs != "inputs")


def give(case: Case) -> Given:
    generator = torch.Generator().manual_seed(case.seed)
    dtype = getattr(torch, case.dtype)

    def randn(*size: int) -> Tensor:
        made = torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)
        if case.memory == "strided":
            made = torch.stack([made, made + 1], -1)[..., 0]
        return made

    T, B, lanes = case.T, case.rows_, case.layers * case.D
    lengths = torch.full((B,), T)
    if case.rows in ("lengths", "packed", "unsorted"):
        lengths = torch.randint(1, T + 1, (B,), generator=generator)
        if case.rows != "lengths":
            lengths[B // 2] = T  # or there would be fewer steps
        if case.rows == "packed":
            lengths = lengths.sort(descending=True).values
    names = names_of(case)
    widths = oracle.widths_of(case, user_cell(case)) | {"h": case.P}
    states = [randn(lanes, B, widths.get(name, case.H)) for name in names]
    if "n" in names:  # a normalizer
        states[names.index("n")] = states[names.index("n")].abs() + 0.5
    if not case.state:
        initial = (0.0, *INITIAL.get(case.cell, (0.0,) * (len(names) - 1)))
        states = [torch.full_like(s, v) for s, v in zip(states, initial, strict=True)]
    resets = torch.rand(T, B, generator=generator) < 0.3 if case.resets else None
    cell = user_cell(case)
    inputs = {
        name: randn(
            T,
            B,
            widths.get(name, case.H)
            if n % 2 < {"one": 0, "both": 1, "each": 2}[case.inputs]
            else 1,
        ).abs()
        for n, name in enumerate(cell.inputs if cell is not None else ())
    }
    return Given(randn(T, B, case.I), states, lengths, resets, inputs)


# --- the library's call ---


def packing(given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """The batch sizes, the padded row of each packed one, and back [T, B]."""
    (T, B), lengths = given.x.shape[:2], given.lengths
    sizes = (lengths > torch.arange(T)[:, None]).sum(1)
    rows = given.order.argsort()
    places = torch.cat([t * B + rows[: int(n)] for t, n in enumerate(sizes)])
    back = torch.zeros(T * B, dtype=torch.int64).scatter(0, places, torch.arange(len(places)))
    return sizes, places, back.view(T, B)


def ours(case: Case, module: nn.Module, given: Given) -> dict[str, Tensor]:
    """Results of the library by name, with time first and padded."""
    x, states, names = given.x, given.states, names_of(case)
    if case.cell == "dreamer":
        y, last = module(x, states[0][0] if case.state else None, given.resets)
        return {"y": y, "h_n": last[None]}
    if case.door.startswith("prepared"):
        module = fused_lstm.prepare(module, getattr(torch, case.door.partition("-")[2]))
    if case.door == "stream":
        stream = fused_lstm.Streaming(module, case.rows_)
        at = [{name: of[t] for name, of in given.inputs.items()} for t in range(case.T)]
        y = torch.stack([stream(row, **inputs) for row, inputs in zip(x, at, strict=True)])
        last = stream.state if isinstance(stream.state, tuple) else (stream.state,)
        return {"y": y} | dict(zip((f"{n}_n" for n in names), last, strict=True))
    if case.door == "function":
        return by_the_function(case, module, given)
    packed, one = case.rows in ("packed", "unsorted"), case.rows == "unbatched"
    how: dict[str, Any] = {"return_states": True} if case.states else {}
    resets, inputs, alive = given.resets, given.inputs, None
    if packed:
        sizes, places, back = packing(given)
        order = None if case.rows == "packed" else given.order
        sorting = (None, None) if order is None else (order.argsort(), order)
        x = PackedSequence(x.flatten(0, 1)[places], sizes, *sorting)
        resets = None if resets is None else resets.flatten()[places]
        inputs = {n: x._replace(data=v.flatten(0, 1)[places]) for n, v in inputs.items()}
        alive = (given.lengths > torch.arange(case.T)[:, None])[..., None]
    elif one:
        x, states = x[:, 0], [s[:, 0] for s in states]
        resets = None if resets is None else resets[:, 0]
        inputs = {name: value[:, 0] for name, value in inputs.items()}
    elif case.rows == "batch_first":
        x, resets = x.transpose(0, 1), None if resets is None else resets.T
        inputs = {name: value.transpose(0, 1) for name, value in inputs.items()}
    if case.rows == "lengths":
        how["lengths"] = given.lengths
    if resets is not None:
        how["resets"] = resets
    state = (tuple(states) if len(states) > 1 else states[0]) if case.state else None
    y, last, *rest = module(x, state, **how, **inputs)

    def many(of: Any) -> list[Tensor]:
        return list(of) if isinstance(of, tuple) else [of]

    last, every = many(last), many(rest[0]) if rest else []
    if packed:
        assert isinstance(y, PackedSequence)
        y = torch.where(alive, y.data[back], 0.0)
        every = [torch.where(alive, s[:, back], 0.0) for s in every]
    elif one:
        y, last, every = y[:, None], [s[:, None] for s in last], [s[:, :, None] for s in every]
    elif case.rows == "batch_first":
        y, every = y.transpose(0, 1), [s.transpose(1, 2) for s in every]
    found = {"y": y} | dict(zip((f"{n}_n" for n in names), last, strict=True))
    return found | dict(zip((f"{n} of each step" for n in names), every, strict=len(every) > 0))


def by_the_function(case: Case, module: Any, given: Given) -> dict[str, Tensor]:
    engine, _, fuse = case.engine.partition("-")
    names, cell = names_of(case), user_cell(case)
    named = dict(zip(names, given.states, strict=True))
    beside = names[1:] if cell is None else list(cell.states) if len(names) > 1 else []
    c0 = torch.cat([named[n] for n in beside], -1) if beside else named["h"]
    y, (h_n, c_n), *rest = fused_lstm.lstm(
        given.x, (named["h"], c0), module.weights(), case.drop, engine, fuse or None,
        bidirectional=case.D == 2, reverse=case.directions < 0, resets=given.resets,
        cell=module.spec, lengths=given.lengths if case.rows == "lengths" else None,
        training=case.training, recompute=case.recompute, return_states=case.states,
    )  # fmt: skip

    def parts(h: Tensor, c: Tensor) -> list[Tensor]:
        if not beside:
            return [h]
        split = dict(zip(beside, c.chunk(len(beside), -1), strict=True))
        return [h, *(split[n] for n in names[1:])]

    found = {"y": y} | dict(zip((f"{n}_n" for n in names), parts(h_n, c_n), strict=True))
    for every in rest:
        found |= dict(zip((f"{n} of each step" for n in names), parts(*every), strict=True))
    return found


# --- the oracle's ---


def theirs(case: Case, weights: dict[str, Tensor], given: Given) -> dict[str, Tensor]:
    """Results of the oracle by name; all tensors are float64."""
    names, cell, seed = names_of(case), user_cell(case), None
    if case.draws:
        torch.manual_seed(1000 + case.seed)
        seed = torch.randint(2**63 - 1, (1,))
    (T, B), total = given.x.shape[:2], int(given.lengths.sum())
    rows = {"lengths": min(total + 1, T * B), "packed": total, "unsorted": total}.get(case.rows)
    named = dict(zip(names, given.states, strict=True))
    inside = names[1:] if cell is None else list(cell.states)
    y, last, every = oracle.run(
        case, cell, weights, given.x, [named["h"], *(named[n] for n in inside)], given.lengths,
        given.resets, seed, given.inputs, rows,
    )  # fmt: skip
    places = [0, *(1 + inside.index(n) for n in names[1:])]
    found = {"y": y} | {f"{n}_n": last[k] for n, k in zip(names, places, strict=True)}
    if case.states:
        found |= {f"{n} of each step": every[k] for n, k in zip(names, places, strict=True)}
    return found


# --- both ---


def loss_of(case: Case, results: dict[str, Tensor]) -> Tensor:
    """A weight for each element that the loss reads: a gradient in a wrong place must show."""
    read = {
        "all": results, "sum": results, "y": {"y": results["y"]}, "end": {"y": results["y"][-1]},
        "last": {name: value for name, value in results.items() if name.endswith("_n")},
    }[case.by]  # fmt: skip
    if case.by == "sum":
        return sum(value.sum(dtype=torch.float64) for value in read.values())
    return sum(
        (value * torch.linspace(-1, 1, value.numel(), dtype=torch.float64).cos().add(0.1)
         .view_as(value).to(value.dtype)).sum(dtype=torch.float64)
        for value in read.values()
    )  # fmt: skip


def graded(case: Case, results: dict[str, Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {name: value.detach() for name, value in results.items()}
    if case.differentiated and leaves:
        grads = torch.autograd.grad(
            loss_of(case, results), [*leaves.values()], allow_unused=True, materialize_grads=True
        )
        found |= {f"{name}.grad": g for name, g in zip(leaves, grads, strict=True)}
    return found


def emulated_cells() -> AbstractContextManager:
    """Compile a cell's functions, which use no matrix unit, as the emulated AMX has its kernels."""
    files = {"cell": "base", "narrow": "amx"}
    return mock.patch.object(compile, "files_of", return_value=files)


@contextmanager
def settings(case: Case) -> Iterator[None]:
    """Set the instruction set (the best one where this CPU lacks it), threads and precision."""
    threads, names = torch.get_num_threads(), native.OPS.isa_names()
    isa = case.isa
    if isa == "amx" and "amx" not in names and (user_cell(case) is None or "avx512" in names):
        isa = "emulated"
    switches = torch.backends.mkldnn.rnn, torch.backends.mkldnn.matmul
    before = [s.fp32_precision for s in switches]
    try:
        torch.set_num_threads(case.threads)
        if isa in names:
            native.OPS.use_isa(isa)
        if case.precision != "ieee":
            for switch in switches:
                switch.fp32_precision = case.precision
        with emulated_cells() if isa == "emulated" else nullcontext():
            yield
    finally:
        native.OPS.use_isa("")
        torch.set_num_threads(threads)
        for switch, word in zip(switches, before, strict=True):
            switch.fp32_precision = word


def leaves_of(case: Case, given: Given, module: nn.Module) -> tuple[Given, dict[str, Tensor]]:
    """Inputs that want gradients, and all that does, by name."""
    leaves = {}
    if case.differentiated and case.needs != "weights":
        given = given._replace(
            x=given.x.detach().requires_grad_(),
            inputs={n: v.detach().requires_grad_() for n, v in given.inputs.items()},
        )
        leaves = {"x": given.x, **given.inputs}
        if case.state:
            given = given._replace(states=[s.detach().requires_grad_() for s in given.states])
            leaves |= {f"{n}_0": s for n, s in zip(names_of(case), given.states, strict=True)}
    return given, leaves | {n: p for n, p in module.named_parameters() if p.requires_grad}


def wanted_of(case: Case) -> dict[str, Tensor]:
    """The oracle's values and gradients by name, in float64."""
    given, copy = give(case), make(case).double()
    wide = Given(
        given.x.double(), [s.double() for s in given.states], given.lengths, given.resets,
        {n: v.double() for n, v in given.inputs.items()},
    )  # fmt: skip
    wide, leaves = leaves_of(case, wide, copy)
    with torch.set_grad_enabled(case.differentiated):
        results = theirs(case, dict(copy.named_parameters()), wide)
        if case.after:
            results["y"] = results["y"] * 1.5
        return graded(case, results, leaves)


def found_of(case: Case) -> dict[str, Tensor]:
    """The library's."""
    module = make(case)
    given, leaves = leaves_of(case, give(case), module)
    without = torch.inference_mode(case.mode.endswith("inference"))
    with torch.set_grad_enabled(case.differentiated), settings(case), without:
        if case.mode.endswith("inference"):
            given = give(case)  # tensors of this mode, without versions
        warm_up(case, module, given)
        torch.manual_seed(1000 + case.seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
            results = ours(case, module, given)
        if case.after:
            results["y"] = results["y"].mul_(1.5)
        return graded(case, results, leaves)


@contextmanager
def planned(case: Case) -> Iterator[None]:
    """Make launches take a case's path, whatever plan they would have."""
    if case.plan == "own":
        yield
        return
    path = ALONE if case.plan == "alone" else PATHS_BACKWARD[case.plan]

    def plan_of(fuse, direction, dtype, device, shape, *, tf32, **of_cell):
        changes = path if direction == "backward" or "split" not in path else {}
        return make_plan(
            "both" if shape.D == 2 else fuse, direction, shape.H, shape.B, shape.L, dtype, changes,
            projected=shape.projected, **of_cell,
        )  # fmt: skip

    with mock.patch.object(op, "plan_of", plan_of):
        yield


def errors_of_plain_pytorch(case: Case, exact: dict[str, Tensor]) -> dict[str, float]:
    """The largest errors, by name, of five runs of the oracle with factors of bfloat16's bits."""
    most = dict.fromkeys(exact, 0.0)
    for seed in range(5):
        with Noise(seed):
            rounded = wanted_of(case)
        most |= {n: max(most[n], error_of(rounded[n], value)) for n, value in exact.items()}
    return most


def check(case: Case, wanted: dict[str, Tensor] | None = None) -> None:
    """Compare a case's every value and gradient; the message is a line that reproduces it."""
    wanted = wanted_of(case) if wanted is None else wanted
    try:
        with planned(case):
            found = found_of(case)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} in {case}: {error}") from error
    assert found["y"].dtype == getattr(torch, case.computed), case
    assert found.keys() == wanted.keys(), f"{case}: {found.keys()}, {wanted.keys()}"
    errors = cache(lambda: errors_of_plain_pytorch(case, wanted))
    for name, value in wanted.items():
        compare(case, name, found[name], value, errors)


def warm_up(case: Case, module: nn.Module, given: Given) -> None:
    """Run another call first: what a module remembers of it must not show in the next one."""
    if case.before == "mode":
        ours(case, module.train(not case.training), given)
        module.train(case.training)
    elif case.before == "shape":
        other = replace(case, T=case.T + 1, seed=case.seed + 1)
        ours(other, module, give(other))


def error_of(found: Tensor, wanted: Tensor) -> float:
    """The error's norm as a part of the value's, or of one of 0.1 for each number."""
    size = max(wanted.norm().item(), 0.1 * wanted.numel() ** 0.5)
    return (found.double() - wanted).norm().item() / size


def compare(
    case: Case, name: str, found: Tensor, wanted: Tensor,
    errors: Callable[[], dict[str, float]] = dict,
) -> None:  # fmt: skip
    """Compare a value or a gradient. errors: `errors_of_plain_pytorch`, asked for where needed."""
    assert found.shape == wanted.shape, f"{name}: {case}: {found.shape}, {wanted.shape}"
    if not wanted.numel():
        return
    assert wanted.isfinite().all(), f"{name}: {case}: the oracle's is not finite"
    few_bits = NORM.get(case.computed) or NORM.get(case.precision) or NORM.get(case.door)
    if few_bits is not None:
        wrong = error_of(found, wanted)
        if case.norm:  # a rounding that is divided by a deviation, and again in each layer above
            few_bits *= 3 * (1 + 0.5 * (case.layers - 1))
        if case.norm and case.precision == "bf16" and wrong > few_bits:
            few_bits = OF_PLAIN_PYTORCH * errors()[name]
        assert wrong <= few_bits, f"{name}: {wrong:.2g}: {case}"
        return
    scale = wanted.abs().max().clamp(min=1.0) if case.dtype == "float32" else 1.0
    if case.dtype == "float32":  # what is divided by may be small: deviations, a normalizer
        scale *= 3 ** (case.norm + (case.cell == "zoo.normalized"))
    torch.testing.assert_close(
        found.double() / scale, wanted / scale, **near(TOLERANCE[getattr(torch, case.dtype)]),
        msg=lambda text: f"{name}: {case}\n{text}",
    )  # fmt: skip
