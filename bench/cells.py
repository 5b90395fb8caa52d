"""Cells that nn.LSTM lacks, forward and backward: options, functions of a unit, the sLSTM.

`options`: a mode is a cell of fused_lstm.LSTM, timed beside the plain one and the step loop of the
same cell, and where Keras leaves its own fast path, beside Keras's loop; the GRU beside nn.GRU.

`functions`: cells of the literature, `fused_lstm.Recurrent` beside a Python loop over them, which
is what a user writes: W x of all steps in one product, then at each step R h and the function.
torch.compile of it unrolls the steps and compiles for minutes, so it runs where `--engines all`
asks for it. The answers are compared in float64: there is one rounding less to turn a relu's
derivative from 0 to 1.

`slstm`: the recurrence of xLSTM's and TiRex's own PyTorch cells, eager, under torch.compile, and
converted; gates [B, T, 4H] are W x without a bias. What is compiled is the step around the
question whether all of n is 0, at which a graph breaks; of TiRex's cell, its pointwise step.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_lstm
from fused_lstm import reference
from fused_lstm.operator.autograd import draw_seed

from .cases import Case, Shape
from .contenders import Contender, why_not
from .core import Call, Work, differentiable
from .peers.remote import Remote

# --- options ---

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "zoneout": {"zoneout": (0.15, 0.3)},
    "recurrent_dropout": {"recurrent_dropout": 0.25},
    "layer_norm": {"layer_norm": True},
    "gru": {"gru": True},
}
KERAS = ("recurrent_dropout", "layer_norm")  # what its LSTM does step by step
PEER = Contender("keras", "keras-cells", peer=True)
SEED = 1  # of the masks whose answers are compared
ENGINES = {"cpu": "native", "cuda": "triton"}


def module_of(cell: str, engine: str, case: Case, device: torch.device) -> Any:
    """Return two layers of a cell with the seed's weights; engine "torch" is nn.GRU."""
    _, _, I, H, L = case.shape
    torch.manual_seed(0)
    if cell == "gru":
        kind = nn.GRU if engine == "torch" else partial(fused_lstm.GRU, engine=engine)
        return kind(I, H, L, device=device)
    return fused_lstm.LSTM(I, H, L, engine=engine, device=device, **OPTIONS[cell])


def loop_of(module: Any, x: Tensor, state: Tensor) -> Tensor:
    """Run the reference's loop over a module's cell, which multiplies x by W before it begins.

    It is the same for all cells. (For nn.LSTM's, engine `loop` has TensorFlow's, which multiplies
    [x, h] at each step.)
    """
    seed = draw_seed(x.device) if module.spec.draws else None
    weights = module.weights()
    return reference.lstm(x, state, state, weights, seed=seed, cell=module.spec)[0]


def masks_of(module: Any, case: Case, device: torch.device) -> dict[str, Tensor]:
    """Return the masks that SEED draws and their rate, for the peer."""
    T, B, _, H, L = case.shape
    torch.manual_seed(SEED)
    drawn = draw_seed(device)
    draws = [reference.draw(module.spec, drawn, lane, L, T, B, H, H) for lane in range(L)]
    masks = [torch.ones(B, H) if d.recurrent is None else d.recurrent for d in draws]
    rate = torch.tensor(module.spec.recurrent_dropout)
    return {"masks": torch.stack(masks), "recurrent_dropout": rate}


def joined(calls: dict[str, Call]) -> Call:
    """Return one contender's calls of several cells: a mode is a cell's training step.

    Names of tensors begin with their cell's.
    """

    def answer() -> dict[str, Tensor]:
        return {f"{cell} {name}": t for cell, c in calls.items() for name, t in c.answer().items()}

    def gives(name: str) -> bool:
        cell, _, tensor = name.partition(" ")
        return (
            cell in calls
            and tensor not in ("h_n", "c_n")
            and (not first.turns or tensor != "inference")
        )

    def close() -> None:
        for call in calls.values():
            call.close()

    first = next(iter(calls.values()))
    modes = {cell: call.modes["step"] for cell, call in calls.items()}
    return Call(modes, answer, gives=gives, close=close, turns=first.turns, device=first.device)


def options(case: Case, o: Any) -> Work:
    """Return all cells of a case by our engine, its loop, Keras and nn.GRU."""
    device, ours = o.device, ENGINES.get(o.device.type, "loop")
    if why := fused_lstm.available_engines(device)[ours]:
        raise ValueError(f"device: got {device}; the {ours} engine cannot run here: {why}")
    T, B, I, H, L = case.shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(T, B, I, generator=generator).to(device)
    dy = torch.randn(T, B, H, generator=generator).to(device)

    def of_engine(engine: str, *cells: str, dtype: torch.dtype = torch.float32) -> Call:
        leaf, zero = x.to(dtype).requires_grad_(), torch.zeros(L, B, H).to(device, dtype)
        found = {}
        for cell in cells or OPTIONS:
            module = module_of(cell, ours if engine == "loop" else engine, case, device).to(dtype)
            by_module = partial(lambda module: module(leaf), module)
            run = partial(loop_of, module, leaf, zero) if engine == "loop" else by_module
            leaves = {"x": leaf} | dict(module.named_parameters())
            found[cell] = differentiable(run, leaves, dy.to(dtype), device, seed=SEED)
        return joined(found)

    def keras() -> Call:
        found = {}
        for cell in KERAS:
            module = module_of(cell, ours, case, device)
            tensors = {"x": x, "dy": dy} | dict(module.named_parameters())
            remote = Remote(PEER.engine, tensors | masks_of(module, case, device), device)
            found[cell] = remote.call(["step"])
        return joined(found)

    def expected() -> dict[str, Tensor]:
        answer = of_engine("loop", dtype=torch.float64).answer()
        return {name: t.float() for name, t in answer.items()}

    calls: dict[str, Callable[[], Call]] = {
        "ours": partial(of_engine, ours), "loop": partial(of_engine, "loop"),
        "torch": partial(of_engine, "torch", "gru"), "keras": keras,
    }  # fmt: skip
    absent = {"keras": why} if (why := why_not(PEER, device)) else {}
    calls = {label: call for label, call in calls.items() if label not in absent}
    return Work(calls, expected, {"shape": case.shape._asdict()}, absent)


# --- functions ---

FUNCTIONS = ("lltm", "gru", "lstm", "slstm", "sru", "min_gru")
COMPILED = ("lltm", "sru", "min_gru")


def python_loop(module: Any, x: Tensor) -> Tensor:
    """Run a layer of a function step by step: x [T, B, I] -> y [T, B, H]."""
    m, cell, B, H = module, module.cell, x.shape[1], module.hidden_size
    vectors = [getattr(m, f"{name}_l0") for name in cell.weights]
    for name in cell.products:
        vectors += getattr(m, f"bias_{name}_l0").split(H)
    matrices = [getattr(m, f"weight_{name}_l0") for name in cell.products]

    def product(k: int, value: Tensor) -> list[Tensor]:
        return list(F.linear(value, matrices[k]).split(H, -1))

    states = [x.new_full((B, H), value) for value in cell.initial_states.values()]
    h, outputs, gates = x.new_zeros(B, H), [], cell.gates
    by_x = F.linear(x, m.weight_ih_l0, m.bias_ih_l0).split(H, -1)
    of_x = dict(zip(sorted(gates.by_x), by_x, strict=True))
    for t in range(len(x)):
        parts = {("x", k): of_x[k][t] for k in of_x}
        if gates.by_h:
            by_h = F.linear(h, m.weight_hh_l0, m.bias_hh_l0).split(H, -1)
            parts |= {("h", k): v for k, v in zip(sorted(gates.by_h), by_h, strict=True)}
        parts |= {("gate", k): parts["x", k] + parts["h", k] for k in gates.summed}
        h, states = cell.step([parts[c] for c in gates.columns], states, vectors, product)
        outputs.append(h)
    return torch.stack(outputs)


def functions(case: Case, o: Any) -> Work:
    """Return a cell by the loop, by ours, compiled where asked, and as the library has it."""
    from . import zoo  # its cells take seconds to trace

    T, B, I, H, _ = case.shape
    cell = zoo.ALL[case.cell]
    torch.manual_seed(0)
    begin = time.perf_counter()
    module = fused_lstm.Recurrent(cell, I, H, engine="native")
    constructed = time.perf_counter() - begin  # a cell's first module compiles it
    x, dy = torch.randn(T, B, I), torch.randn(T, B, H)

    def of(how: str, wide: bool = False) -> Call:
        dtype = torch.float64 if wide else torch.float32
        layer: Any = copy.deepcopy(module).to(dtype)
        run: Callable[[Tensor], Tensor] = partial(python_loop, layer)
        if how == "compile":
            torch._dynamo.reset()  # else the ninth loop is not compiled: one function has all
            run = torch.compile(run, dynamic=False)
        if how == "library":
            layer = fused_lstm.LSTM(I, H, engine="native").to(dtype)
            layer.load_state_dict(module.state_dict())
        if how in ("ours", "library"):
            run = lambda x: layer(x)[0]  # noqa: E731
        leaf = x.to(dtype).requires_grad_()
        leaves = {"x": leaf} | dict(layer.named_parameters())
        return differentiable(lambda: run(leaf), leaves, dy.to(dtype))

    def exact(how: str) -> dict[str, Tensor]:
        return {name: t.float() for name, t in of(how, wide=True).answer().items()}

    def checked(how: str) -> Call:
        call, first = of(how), time.perf_counter()
        call.modes["step"]()
        seconds = time.perf_counter() - first  # which compiles where anything does
        call.facts = lambda mode, rounds: {"first": seconds}
        call.answer = call.answer if how == "compile" else partial(exact, how)
        return call

    ways = ["loop", "ours"] + ["library"] * (case.cell == "lstm")
    ways += ["compile"] * (case.cell in COMPILED and o.engines == "all")
    facts = {"shape": case.shape._asdict(), "cell": case.cell, "call": case.call,
        "constructed": constructed}  # fmt: skip
    calls = {how: partial(checked, how) for how in ways}
    return Work(calls, partial(exact, "loop"), facts)


# --- the sLSTM of other packages ---

PACKAGES = {"xlstm": "xlstm", "tirex": "tirex-ts"}  # module -> what pip calls it


def package_cell(package: str, H: int, N: int) -> Any:
    """Return a package's own cell with weights that are not zero."""
    if package == "xlstm":
        own = importlib.import_module("xlstm.blocks.slstm.cell")
        settings = own.sLSTMCellConfig(hidden_size=H, num_heads=N, backend="vanilla")
        cell = own.sLSTMCell(settings)
    else:
        own = importlib.import_module("tirex.models.slstm.cell")
        cell = own.sLSTMCell(own.sLSTMBlockConfig(H, N), backend="torch")
        torch.nn.init.zeros_(cell._bias_)
    torch.nn.init.uniform_(cell._recurrent_kernel_, -(H**-0.5), H**-0.5)
    return cell


def compiled(package: str, cell: Any) -> Callable[[Tensor], Any]:
    """Return a package's cell under torch.compile, as far as it can be."""
    if package == "xlstm":
        return torch.compile(cell)
    steps = importlib.import_module("tirex.models.slstm.cell").sLSTMCellTorch
    eager = steps.slstm_forward_pointwise
    pointwise = torch.compile(eager)

    def run(gates: Tensor) -> Any:
        steps.slstm_forward_pointwise = staticmethod(pointwise)
        try:
            return cell(gates, None)
        finally:
            steps.slstm_forward_pointwise = staticmethod(eager)

    return run


def slstm(case: Case, o: Any) -> Work:
    """Return a package's cell in N heads: eager, compiled, and on our kernels.

    TiRex's cell rounds its states to bfloat16 at each step, so its answers are as exact as that.
    """
    package, N, (T, B, _, H, _) = case.cell, case.heads, case.shape
    if importlib.util.find_spec(package) is None:
        why = f"{package} is not installed; pip install --no-deps {PACKAGES[package]}"
        return Work({}, absent=dict.fromkeys(("eager", "compiled", "native"), why))
    torch.compiler.reset()  # a case's graphs do not count against the next one's
    torch.manual_seed(0)
    cell = package_cell(package, H, N)
    gates, dy = torch.randn(B, T, 4 * H), torch.randn(B, N, T, H // N)

    def of(how: str, dtype: torch.dtype = torch.float32) -> Call:
        own = copy.deepcopy(cell).to(dtype)
        run: Callable[[Tensor], Any] = partial(own, state=None)
        if how == "compiled":
            run = compiled(package, own)
        elif how == "native":
            convert = importlib.import_module(f"fused_lstm.integrations.{package}").convert
            convert(own, engine="native")
        leaf = gates.to(dtype).requires_grad_()
        leaves = {"gates": leaf} | dict(own.named_parameters())
        return differentiable(lambda: run(leaf)[0], leaves, dy.to(dtype))

    def expected() -> dict[str, Tensor]:
        exact = torch.float32 if package == "tirex" else torch.float64
        return {name: t.float() for name, t in of("eager", exact).answer().items()}

    ways = {how: partial(of, how) for how in ("eager", "compiled", "native")}
    sizes: Sequence[int] = (T, B, H, N)
    facts = {"shape": case.shape._asdict(), "heads": N, "package": package, "call": case.call,
        "sizes": sizes}  # fmt: skip
    return Work(ways, expected, facts, rounded_to=torch.bfloat16)


def slstm_cases(calls: Sequence[tuple[int, Shape]]) -> list[Case]:
    """Return each package's cell in so many heads at a shape."""
    return [
        Case(f"{package}, {call}", shape, cell=package, heads=N, call=call)
        for package in PACKAGES
        for N, shape in calls
        for call in [f"T={shape.T}, B={shape.B}, H={shape.H}, N={N}"]
    ]


def function_cases(shapes: Sequence[Any]) -> list[Case]:
    """Return each function at each shape."""
    return [
        Case(f"{name}, {call}", shape, cell=name, call=call)
        for shape in shapes
        for call in [f"T={shape.T}, B={shape.B}, H={shape.H}"]
        for name in FUNCTIONS
    ]
