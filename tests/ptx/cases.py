"""The project's kernels on the machine: a case is one kernel's shape, and is run by its operators.

T, B, H, L, P: time steps, batch, hidden size, layers, size of a projected h.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from triton import knobs

import fused_lstm
import sum_cells
from bench import zoo
from bench.gpu import gsan
from fused_lstm import reference
from fused_lstm.call.record import Call
from fused_lstm.call.spec import CELLS, PLAIN, Spec, Units
from fused_lstm.triton import devices, launch, op, pointwise, rounding
from plans import make_plan
from tolerance import TOLERANCE

from .device import Device, Failed
from .run import WEAK, Schedule

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,  # in full precision, without tensor cores
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# What makes small shapes take the paths of large ones: name -> changes of the plan.
PATHS = {
    "own": {},
    "streamed": {"block_k": 32, "resident": 2, "resident_ih": 1, "stages": 3, "ahead": 1},
    "all streamed": {"block_k": 32, "resident": 0, "resident_ih": 0, "stages": 3, "ahead": 0},
    "streamed in parts": {
        "block_k": 128, "k_parts": 8, "warps": 8, "resident": 1, "stages": 3, "ahead": 1,
        "hold": False,
    },
    "blocks of batch": {"block_b": 16, "row_groups": 1},
    "groups of rows": {"block_b": 16, "row_groups": 2},
    "whole sums": {"k_parts": 1},
    # Backward: a program sums over all gates of its block, which it shares with nobody.
    "no split": {"units": 16, "split": 1},
    # Backward: programs that share a block, a gate each, with sums in parts.
    "a gate each": {
        "units": 64, "split": 4, "block_k": 128, "k_parts": 8, "warps": 8, "resident": 9,
        "ahead": 1, "hold": False,
    },
    "alone": {"alone": 16},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    kind: str  # pointwise, steps, layers, both
    dtype: str  # a key of DTYPES
    arch: int
    H: int
    B: int = 3
    T: int = 3
    L: int = 1
    p: float = 0.0
    mode: str = "persistent"  # or per-step: a launch a step
    path: str = "own"
    lengths: tuple[int, ...] = ()  # of B rows, falling, where they end early
    resets: bool = False  # whether some states are zeroed
    P: int = 0  # 0: h is not projected
    calls: int = 1  # on one workspace, as an allocator hands out the same memory again
    cell: Spec = PLAIN
    states: bool = False  # whether there are gradients by the states after every step
    reverse: bool = False  # lanes run from the last step to the first
    phase: bool = False  # h is exchanged by its phase, which phase_cases.py runs

    def __str__(self) -> str:
        words = [self.kind, self.dtype, f"sm_{self.arch}", f"H{self.H}", f"B{self.B}"]
        words += [f"P{self.P}"] if self.P else []
        words += [f"L{self.L}"] if self.kind == "layers" else []
        words += [f"dropout {self.p}"] if self.p else []
        words += [f"T{self.T}"] if self.T not in (2, 3) else []
        words += [f"{self.calls} calls"] if self.calls > 1 else []
        words += ["rows"] if self.lengths else []
        words += ["resets"] if self.resets else []
        words += ["states"] if self.states else []
        words += ["reverse"] if self.reverse else []
        words += ["phase"] if self.phase else []
        words += [name.replace("_", " ") for name in self.cell.options]
        if self.cell.cell != "lstm":
            told = CUSTOM.get(self.cell.cell)
            words += [told.__name__ if told else self.cell.cell]
        words += [word for word in (self.mode, self.path) if word not in ("persistent", "own")]
        return "-".join(words).replace(" ", "-")

    @property
    def device(self) -> devices.Device:
        """The card; without SMs nothing can run at once, and a launch takes one step."""
        found = devices.by_arch(self.arch)
        return found if self.mode == "persistent" else replace(found, sms=0)

    @property
    def rows(self) -> tuple[int, ...]:
        """Of x: T and B, or N, of which one is dead."""
        return (sum(self.lengths) + 1,) if self.lengths else (self.T, self.B)

    def lanes(self) -> dict:
        """What the operators are told of them."""
        found = {
            "directions": 2 if self.kind == "both" else -1 if self.reverse else 1,
            "batch_sizes": None,
            "not_reset": None,
        }
        if self.lengths:
            lengths, t = torch.tensor(self.lengths), torch.arange(self.T)
            found["batch_sizes"] = (lengths > t[:, None]).sum(1)
        if self.resets:
            found["not_reset"] = torch.rand(abs(found["directions"]), *self.rows) > 0.4
        return found

    @property
    def tolerance(self) -> float:
        """The relative one. TF32 rounds its inputs as float16 does."""
        return TOLERANCE[torch.float16 if self.dtype == "tf32" else DTYPES[self.dtype]][0]


@dataclass
class Outcome:
    """What some schedules of a case gave."""

    case: Case
    schedules: int = 0
    error: float = 0.0  # the largest, as a part of what is allowed
    wrong: list[str] = field(default_factory=list)  # results that are not the reference's
    findings: Counter[str] = field(default_factory=Counter)  # "kind, source line" -> schedules
    report: str = ""  # of the first schedule that found anything
    stats: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        return not self.wrong and not self.findings

    def __str__(self) -> str:
        lines = [f"{self.case}: {self.schedules} schedules, error {self.error:.2f} of the allowed"]
        return "\n".join([*lines, *self.wrong, *map(str, self.findings.items()), self.report])


STATS = ("instructions", "seconds", "stale_loads", "delayed_stores", "sleeps", "splits")


def run(
    case: Case,
    seeds: Iterable[int] = (1,),
    schedule: Schedule = WEAK,
    change: Callable[[str], str] | None = None,
    max_instructions: int = 2_000_000_000,
) -> Outcome:
    """Forward and backward of a case under each seed's schedule, against the reference."""
    torch.manual_seed(0)
    compute, expected, rounded = problem(case)
    outcome = Outcome(case)
    for seed in seeds:
        device = Device(case.arch, seed, schedule, change)
        device.max_instructions = max_instructions
        outcome.schedules += 1
        try:
            with device:
                _compare(outcome, compute(), expected, rounded)
        except Failed:
            pass  # its report is the device's last
        outcome.findings.update({f"{f.kind}, {f.source}" for f in device.findings})
        outcome.stats.update({name: device.total(name) for name in STATS})
        if device.findings and not outcome.report:
            found = [str(report) for report in device.reports if report.findings]
            outcome.report = "\n".join([f"seed {seed}:", *found])
    return outcome


def _compare(
    outcome: Outcome,
    found: dict[str, Tensor],
    expected: dict[str, Tensor],
    rounded: dict[str, Tensor],
) -> None:
    """By the largest element of each result: gradients of weights are sums of T * B terms. Where
    PyTorch's own rounding is known, twice its error is allowed.
    """
    for name, wanted in expected.items():
        if wanted.numel() == 0:  # of a scan, by w_hh
            continue
        error = (found[name].double() - wanted).abs().max().item()
        allowed = outcome.case.tolerance * wanted.abs().max().item()
        if name in rounded:
            allowed = max(allowed, 2 * (rounded[name].double() - wanted).abs().max().item())
        ratio = error / allowed if allowed else float("inf" if error else 0)  # all zero
        outcome.error = max(outcome.error, ratio)
        if not ratio <= 1:  # not a number either
            outcome.wrong.append(f"{name}: error {error:.1e}, {ratio:.1f} times what is allowed")


def with_polls(polls: int, seed: int = 1) -> Outcome:
    """A case whose launches trap after so many polls."""
    with mock.patch.dict(os.environ, {launch.POLLS: str(polls)}):
        launch.constants.cache_clear()
        op.plan_call.cache_clear()
        op.planned_for.cache_clear()
        outcome = run(Case("steps", "bf16", 90, 33, path="whole sums"), (seed,))
    launch.constants.cache_clear()
    op.plan_call.cache_clear()
    op.planned_for.cache_clear()
    return outcome


def on_atomics(case: Case, seeds: Iterable[int], relaxed: bool = False) -> Outcome:
    """`run`, with the barrier that AMD's GPUs and GSan get. relaxed: with a fault, no acquire."""
    change = (lambda ptx: ptx.replace(".acquire", ".relaxed")) if relaxed else None
    with gsan.on_atomics():
        return run(case, seeds, change=change)


def under_gsan(arch: int) -> list[tuple[str, int]]:
    """PTX of what bench/gpu/gsan.py launches and its bytes of scratch, compiled; nothing runs."""
    found = []

    class Compiling(Device):
        def launch(self, grid, ptx: str, metadata, arguments) -> None:
            found.append((ptx, metadata.global_scratch_size))

    card = devices.by_arch(arch)
    with (
        knobs.compilation.scope(),
        mock.patch.object(devices, "current", return_value=card),
        Compiling(arch),
    ):
        knobs.compilation.instrumentation_mode = "gsan"
        gsan.main("atomics", "cpu")
    return found


def nan_spreads_to(arch: int, seeds: Iterable[int]) -> dict[int, list[int]]:
    """Where one unit of layer 0 is not a number at t = 0: all such units of that step, by seed."""
    case, found = Case("layers", "bf16", arch, 33, T=2, L=2), {}
    torch.manual_seed(0)
    x, h0, c0, *weights = _inputs(case)
    c0[0, 1, 5] = torch.nan
    for seed in seeds:
        with Device(arch, seed, replace(WEAK, races=0)), _launching(case):
            _, _, _, h, _, _ = op.lstm(x, h0, c0, weights, 0.0, None, "layers", True)
        found[seed] = h[0, 0, 1].isnan().nonzero().flatten().tolist()
    return found


def nan_beside_resets(arch: int, dtype: str, seeds: Iterable[int]) -> dict[int, list]:
    """Return, by seed, the [step, row] of y and of dx that hold a NaN.

    All rows begin anew at step 1. In x row 1 is NaN before it, row 2 after it.
    """
    case, result = Case("layers", dtype, arch, 17, T=2, L=2, resets=True), {}
    torch.manual_seed(0)
    x, h0, c0, *weights = _inputs(case)
    x[0, 1], x[1, 2] = torch.nan, torch.nan
    not_reset = torch.ones(1, 2, case.B, dtype=torch.bool)
    not_reset[:, 1] = False
    inputs = x, h0, c0, weights, 0.0, None, "layers"
    for seed in seeds:
        with Device(arch, seed, replace(WEAK, races=0)), _launching(case):
            y, _, _, *saved = op.lstm(*inputs, True, not_reset=not_reset)
            dy = torch.ones_like(y)
            dx, *_ = op.lstm_backward(dy, None, None, *inputs, y, *saved, True, not_reset=not_reset)
        result[seed] = [t.isnan().any(-1).nonzero().tolist() for t in (y, dx)]
    return result


# --- problems: what computes all results, what they should be, and what PyTorch rounds them to ---

Problem = tuple[Callable[[], dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]


@fused_lstm.cell(states="c")
def soft(i, f, g, *, c):
    """Have a logarithm in a gate."""
    c = torch.sigmoid(f) * c + F.softplus(i) * torch.tanh(g)
    return torch.tanh(c), c


@fused_lstm.cell(states="c", products={"u": 1, "v": 3})
def deep(a, b, *, c, u, v):
    """Have two products, the second of what the first has made."""
    first = torch.tanh(a + u(torch.sigmoid(b) * c))
    i, f, g = v(first)
    c = torch.sigmoid(f + b) * c + torch.sigmoid(i) * torch.tanh(g)
    return first * torch.tanh(c), c


@fused_lstm.cell(states="c", products="u", weights="gain bias")
def norms(a, b, *, c, u, gain, bias):
    """Have sums and a maximum that share meetings, and meetings of sums around a product."""
    made = u(F.layer_norm(a, a.shape[-1:], gain, bias))
    c = torch.softmax(b, -1) * c + torch.tanh(made)
    return torch.tanh(F.layer_norm(c, c.shape[-1:])), c


@fused_lstm.cell(states="h", products="u", x_only="a")
def free(a, *, h, u):
    """Have no gate of h, whose programs meet inside a step all the same."""
    return 0.5 * h + torch.tanh(a + u(F.rms_norm(h, h.shape[-1:], eps=1e-3)))


held, decoder = sum_cells.without_a_meeting_backwards, sum_cells.decoder
CUSTOM = {told.name: told for told in (*zoo.ALL.values(), soft, deep, norms, free, held, decoder)}
NARROW = {decoder.name: {"y": 5}}  # states of fewer units than h
# Where rounding moves a sum past zero gradients jump; those of an sLSTM's i are differences.
STEEP = "rnn_relu", zoo.functions.name, zoo.slstm.name


def problem(case: Case) -> Problem:
    if case.cell.cell in CUSTOM:
        CUSTOM[case.cell.cell].on_triton(any(case.cell.zones))
    return _cell(case) if case.kind == "pointwise" else _stack(case)


def _cell(case: Case) -> Problem:
    dtype = DTYPES[case.dtype]
    gates, c = torch.randn(case.B, 4 * case.H).to(dtype), torch.randn(case.B, case.H)
    c = c.to(reference.state_dtype(dtype))
    wide = [_wide(t) for t in (gates, c)]
    outputs = reference.cell(*wide)
    weights = [_pattern(out).to(t.dtype) for out, t in zip(outputs, (gates, c), strict=True)]
    wanted = torch.autograd.grad(outputs, wide, [w.double() for w in weights])
    expected = dict(zip(("h", "c", "dgates", "dc"), (*outputs, *wanted), strict=True))

    def compute() -> dict[str, Tensor]:
        h, c_next = pointwise.cell(gates, c)
        dgates, dc = pointwise.cell_backward(gates, c, c_next, *weights)
        return {"h": h, "c": c_next, "dgates": dgates, "dc": dc}

    return compute, {name: value.detach() for name, value in expected.items()}, {}


def _by_autograd(case: Case, inputs: list[Tensor], lanes: dict) -> dict[str, Tensor]:
    """The reference's outputs and gradients, in the dtype of the inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    seed = _seed(case)
    of_call = *leaves[:3], leaves[3:]
    outputs = reference.lstm(*of_call, case.p, seed, **lanes, cell=case.cell)
    if case.states:
        D = lanes["directions"]
        more = replace(case.cell, layers=case.L, directions=abs(D), dropout=case.p, reverse=D < 0)
        outputs = reference.run(
            Call(
                more,
                *of_call,
                seed=seed,
                batch_sizes=lanes["batch_sizes"],
                not_reset=lanes["not_reset"],
            )
        )
        outputs = [out for out in outputs if out.numel()]  # one layer has none below the last
    by = [_pattern(out).to(DTYPES[case.dtype]).to(out.dtype) for out in outputs]
    unused = {"allow_unused": True, "materialize_grads": True}  # nn.RNN has no c
    wanted = torch.autograd.grad(outputs, leaves, by, **unused)
    names = ["y", "h_n", "c_n", "dx", "dh0", "dc0"]
    names += [f"dweight {index}" for index in range(len(inputs) - 3)]
    results = [*outputs[:3], *wanted]
    if not case.cell.has_c:  # c is h, and gradients by either are by both
        results[4], results[5] = results[4] + results[5], torch.zeros_like(results[5])
    results = {name: result.detach() for name, result in zip(names, results, strict=True)}
    return _without_padding(case, results)


def _seed(case: Case) -> Tensor | None:
    return torch.tensor([2**40 + 7]) if case.p or case.cell.draws else None


def _stack(case: Case) -> Problem:
    inputs, lanes, seed = _inputs(case), case.lanes(), _seed(case)
    expected, rounded = _by_autograd(case, [t.double() for t in inputs], lanes), {}
    half = case.dtype in ("bf16", "fp16")
    if (case.cell.layer_norm or case.cell.cell == norms.name) and half:
        # It divides by the deviation, which a row's first step has none of: rounding grows.
        rounded = _by_autograd(case, inputs, lanes)
    elif case.cell.cell in STEEP and (half or case.dtype == "tf32"):
        as_rounded = inputs if half else [t.half() for t in inputs]
        rounded = _by_autograd(case, as_rounded, lanes)
    names = list(expected)
    outputs = expected["y"], expected["h_n"], expected["c_n"]
    by = [_pattern(out).to(inputs[0].dtype) for out in outputs]

    def by_states(saved: list[Tensor]) -> dict[str, Tensor]:
        h, c, _ = saved
        states = c[: len(inputs[2])]  # with layer norm other planes follow
        dc = torch.zeros_like(c)
        dc[: len(states)] = _pattern(states).to(inputs[0].dtype)
        return {"dh": _pattern(h).to(h.dtype), "dc": dc}

    def call(x: Tensor, h0: Tensor) -> dict[str, Tensor]:
        (_, _, c0, *weights), own = inputs, lanes | case.cell.schema
        given = x, h0, c0, weights, case.p, seed, case.kind
        y, h_n, c_n, *saved = op.lstm(*given, True, **own)
        more = by_states(saved) if case.states else {}
        dx, dh0, dc0, dweights = op.lstm_backward(*by, *given, y, *saved, True, **own, **more)
        if not case.cell.has_c:
            dh0, dc0 = dh0 + dc0.to(dh0.dtype), torch.zeros_like(dc0)
        found = (y, h_n, c_n, dx, dh0, dc0, *dweights)
        return _without_padding(case, dict(zip(names, found, strict=True)))

    def compute() -> dict[str, Tensor]:
        x, h0, *_ = inputs
        with _launching(case):
            if case.calls == 1:
                return call(x, h0)
            with _one_workspace():
                for _ in range(case.calls - 1):
                    call(-x, -h0)  # it leaves other values
                return call(x, h0)

    return compute, expected, rounded


def _units(case: Case) -> Units | None:
    """The units of a step's values where not all have H."""
    narrow = NARROW.get(case.cell.cell)
    return None if narrow is None else CUSTOM[case.cell.cell].units(case.H, narrow)


def _without_padding(case: Case, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Results with zeros behind the units that a narrow state has."""
    if (units := _units(case)) is None:
        return found
    widths = CUSTOM[case.cell.cell].widths_of("states", case.H, units)
    for name in ("c_n", "dc0"):
        parts = found[name].split(case.H, -1)
        parts = [F.pad(t[..., :n], (0, case.H - n)) for t, n in zip(parts, widths, strict=True)]
        found[name] = torch.cat(parts, -1)
    return found


def _inputs(case: Case) -> list[Tensor]:
    """x, h0, c0 and flat weights."""
    B, H, P, D = case.B, case.H, case.P or case.H, 2 if case.kind == "both" else 1
    kind = CELLS[case.cell.cell]
    states = torch.randn(case.L * D, B, P), torch.randn(case.L * D, B, case.cell.c_parts * H)
    if not case.cell.has_c:
        states = states[0], states[0].clone()
    if case.cell.cell == zoo.slstm.name:  # which divides by its second state
        states[1][..., H : 2 * H].abs_().add_(0.5)
    made = [torch.randn(*case.rows, H), *states]
    for lane in range(case.L * D):
        columns = H if lane < D else D * P
        G, of_h = case.cell.gates * H, (kind.of_h - case.cell.coupled) * H
        weights = torch.randn(G, columns), torch.randn(of_h, P), torch.randn(G), torch.randn(of_h)
        made += [w / H**0.5 for w in (*weights, *([torch.randn(P, H)] if case.P else []))]
        made += [torch.randn(G - H)] if case.cell.peephole else []
        # From 0.5 to 1.5: one may be a time constant, by which the cell divides.
        made += [torch.rand(kind.weights * H) + 0.5] if kind.weights else []
        units = _units(case)
        each = (H,) * len(kind.inner), (H,) * len(kind.inner)
        each = zip(kind.inner, *(each if units is None else units[1:3]), strict=True)
        made += [torch.randn(n * M, factor) / H**0.5 for n, M, factor in each]
        if case.cell.layer_norm:
            of_c = (H, H) if case.cell.cell == "lstm" else ()
            made += [torch.randn(n) for n in (G, of_h, *of_c)]
    return [t.to(DTYPES[case.dtype]) for t in made]


def _wide(t: Tensor) -> Tensor:
    """A float64 copy that wants a gradient."""
    return t.to(torch.float64, copy=True).requires_grad_()


def _pattern(out: Tensor) -> Tensor:
    """Gradients that differ from element to element."""
    return torch.linspace(-1, 1, out.numel()).cos().reshape(out.shape)


@contextmanager
def _launching(case: Case) -> Iterator[None]:
    """The operators launch what the case says, instead of what choice.choose does."""

    def made(fuse: str, direction: str, dtype, device, shape, *, norm, gates, inner, inside, tf32):
        path = PATHS[case.path]
        if direction == "forward" and "split" in path:
            path = {}
        plan = make_plan(
            fuse, direction, case.H, case.B, case.L, dtype, path,
            device=case.device, tf32=case.dtype == "tf32", projected=case.P, norm=norm,
            gates=gates, inner=inner, inside=inside,
        )  # fmt: skip
        return replace(plan, phase=case.phase)

    # So few steps round weights that stream as they come. Of one path they come rounded.
    steps = 1 if case.path == "streamed" else rounding.STEPS
    with mock.patch.object(op, "plan_of", made), mock.patch.object(rounding, "STEPS", steps):
        yield


KEPT: tuple[str, ...] = ()  # parts of a workspace that a later call does not fill again: a fault


@contextmanager
def _one_workspace() -> Iterator[None]:
    """A later call of a plan has the memory of the first one's workspace, filled again."""
    original, first = launch.workspace, {}

    def made(plan, like, leading, launches) -> launch.Workspace:
        new = original(plan, like, leading, launches)
        old = first.setdefault((plan, leading, launches), new)
        for name, of_old, of_new in zip(new._fields, old, new, strict=True):
            if of_old is not None and of_old is not of_new and name not in KEPT:
                of_old.copy_(of_new)
        return old

    with mock.patch.object(launch, "workspace", made):
        yield
