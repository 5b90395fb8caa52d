"""`cell`: a recurrent cell, told once as a Python function of tensors."""

from __future__ import annotations

import copyreg
import hashlib
import inspect
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial, update_wrapper
from types import CellType, CodeType, FunctionType
from typing import Any

from torch import Tensor

from ..call.spec import Units
from ..errors import first_line
from . import print_cpp, print_python, print_triton
from .engine_cell import MOST_COLUMNS, MOST_PRODUCTS, EngineCell
from .gates import Gates, order_of_rows
from .program import Program, program
from .step import Product
from .trace import INSTEAD, CannotExpress
from .widths import Refused, Widths, units_of

# Names that a layer's parameters, and its forward's arguments, have already.
TAKEN = {
    "weights": (
        "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch", "gain_ih",
        "gain_hh",
    ),
    "inputs": ("self", "input", "hx", "lengths", "resets", "return_states"),
    "products": ("ih", "hh", "hr", "ch", "inner"),  # weight_ih and so on
}  # fmt: skip
MOST_GATES = 8
TRACING = threading.RLock()  # one thread at a time: torch.fx, which `fuse` traces by, demands it


class WrongCell(ValueError):
    """A reason why a function cannot be a cell; the message names the function."""


def frozen(function: Any) -> Any:
    """Return a function that sees the values which its globals and its closure have now.

    So do the functions of its module that it calls. No other global is kept alive: a notebook has
    large ones. Another callable is returned as it is.
    """
    if not isinstance(function, FunctionType):
        return function
    every, names = function.__globals__, names_of(function.__code__)
    seen = {name: every[name] for name in ("__builtins__", "__name__") if name in every}
    while names:
        name = names.pop()
        if name in seen or name not in every:
            continue
        value = every[name]
        if isinstance(value, FunctionType) and value.__globals__ is every:
            names |= names_of(value.__code__)
            value = _with_globals(value, seen)
        seen[name] = value
    return _with_globals(function, seen)


def names_of(code: CodeType) -> set[str]:
    """Return the names that code, and the functions inside it, look up: globals among them."""
    inner = [names_of(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def _with_globals(function: FunctionType, seen: dict[str, Any]) -> Any:
    cells = [CellType(*_content(cell)) for cell in function.__closure__ or ()]
    made = FunctionType(
        function.__code__, seen, function.__name__, function.__defaults__, tuple(cells)
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return update_wrapper(made, function)


def _content(cell: CellType) -> tuple:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


class Cell(EngineCell):
    """A recurrent cell: its function, and what follows from it. `cell` makes one.

    Attributes:
        function: the function as it was written.
        gates: names, in the order of the function's arguments, and their kinds: a
            `fused_lstm.cells.gates.Gates`.
        states, weights, inputs: names, as they were told.
        products: name -> the columns of a unit that a product inside the step makes.
        initial_states, initial_weights: name -> the value that it begins with. A weight that is not
            there is initialised as nn.LSTM's weights are.
        constants: name -> value, of keyword arguments that are numbers.
        name: the function's name and a hash of what it computes.
    """

    def __init__(
        self,
        function: Callable,
        states: str | Mapping[str, float] = "",
        weights: str | Mapping[str, float] = "",
        apart: str = "",
        x_only: str = "",
        h_only: str = "",
        inputs: str = "",
        products: str | Mapping[str, int] = "",
        constants: Mapping[str, float] | None = None,
    ) -> None:
        self.function = function
        self._told = states, weights, apart, x_only, h_only, inputs, products
        self._frozen = frozen(function)
        self._check_names(states=states, weights=weights, products=products)
        self._check_names(str, apart=apart, x_only=x_only, h_only=h_only, inputs=inputs)
        self.inputs = tuple(inputs.split())
        self.initial_states = _by_name("states", states, function)
        self.initial_weights = _by_name("weights", weights, function)
        self.states, self.weights = tuple(self.initial_states), tuple(self.initial_weights)
        self.products = self._read_products(products)
        self.biases = {u: [f"bias_{u}_{j}" for j in range(n)] for u, n in self.products.items()}
        # Names of what the engines' weight_ch has: weights, and products' biases.
        self.vectors = *self.weights, *(name for names in self.biases.values() for name in names)
        names = self._read_signature(dict(constants or {}))
        kinds = self._kinds(names, {"x_only": x_only, "h_only": h_only, "apart": apart})
        kinds["x_only"] |= frozenset(self.inputs)  # the engines have an input as a gate of x alone
        self.gates = gates = Gates((*names, *self.inputs), **kinds)
        with_rows = [k for k in gates.by_x if k < len(names)]
        self.rows = order_of_rows(with_rows), order_of_rows(gates.by_h)
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self.__module__, self.__qualname__ = function.__module__, function.__qualname__
        self._origin: tuple[Cell, dict[str, float]] | None = None  # a cell, and what with_ changed
        self._changed: dict[tuple, Cell] = {}  # what with_ has made
        self.name = function.__name__

    def __call__(self, /, *gates: Any, **states_and_weights: Tensor) -> Any:
        """Call the function, as it was when the cell was made."""
        return self._frozen(*gates, **self.constants, **states_and_weights)

    def __repr__(self) -> str:
        return f"<fused_lstm.Cell {self.name}({', '.join(self.gates.names)})>"

    def with_(self, **constants: float) -> Cell:
        """Return the cell with other values of its constants.

        Raises:
            ValueError: a name is none of the function's constants, or a value is no number.
        """
        for name in constants:
            if name not in self.constants:
                expected = ", ".join(self.constants) or "none: it has no constants"
                raise self._error("constants", repr(name), expected)
        origin, changed = self._origin or (self, {})
        changed = changed | constants
        key = tuple(sorted(changed.items()))
        with TRACING:
            if key not in origin._changed:
                made = Cell(self._frozen, *self._told, self.constants | constants).checked()
                made.function = self.function
                made._origin, origin._changed[key] = (origin, changed), made
            return origin._changed[key]

    def checked(self) -> Cell:
        """Trace the function, and make the engines know the cell; return it.

        Raises:
            ValueError: the function cannot be a cell.
        """
        for zoneout in {False, len(self.states) == 1}:  # all variants now: globals may change
            self._programs[zoneout] = self._traced(zoneout)
        digest = self._programs[False].digest()
        if self.inputs:  # which the program has as gates of x alone
            digest = hashlib.sha256(f"{digest} {self.inputs}".encode()).hexdigest()
        self.name = f"{self.function.__name__}_{digest[:12]}"
        self._register()
        return self

    def explained(self) -> str:
        """Return gates, states, what a step saves and why, a step and its backward as Python."""
        return print_python.text(self.program(), self.__name__)

    def source(self, engine: str = "native") -> str:
        """Return the text of a step and of its backward: C++ for "native", Python for "triton".

        Raises:
            ValueError: the engine is another.
        """
        if engine == "native":
            return print_cpp.source(self.program())
        if engine == "triton":
            return print_triton.text_of(self.program(), self.name)
        raise self._error("engine", repr(engine), "'native' or 'triton'")

    # --- what the function is told with ---

    def _read_products(self, told: str | Mapping[str, int]) -> dict[str, int]:
        """Return name -> columns of the products inside the step."""
        products = dict.fromkeys(told.split(), 1) if isinstance(told, str) else dict(told)
        for name, columns in products.items():
            if not name.isidentifier():
                raise self._error("products", repr(name), "a name of an argument")
            if isinstance(columns, bool) or columns not in range(1, MOST_COLUMNS + 1):
                expected = f"1 to {MOST_COLUMNS} columns of a unit"
                raise self._error("products", f"{columns!r} for {name}", expected)
        if len(products) > MOST_PRODUCTS:
            raise self._error("products", f"{len(products)} names", f"at most {MOST_PRODUCTS}")
        return products

    def _error(self, argument: str, got: str, expected: str) -> WrongCell:
        name = self.function.__name__
        return WrongCell(f"cell {name}: {argument}: got {got}; expected {expected}")

    def _check_names(self, kinds: Any = (str, Mapping), **told: Any) -> None:
        """Check that names are one text, or a mapping where they may have values."""
        expected = "names in one text, separated by spaces"
        expected += "" if kinds is str else ", or name -> value"
        for argument, names in told.items():
            if not isinstance(names, kinds) or (isinstance(names, str) and "," in names):
                raise self._error(argument, repr(names), expected)
            every = names.split() if isinstance(names, str) else list(names)
            if len(every) != len(set(every)):
                raise self._error(argument, repr(names), "each name once")

    def _read_signature(self, constants: dict[str, float]) -> tuple[str, ...]:
        """Set constants from the function's arguments, check all, and return the gates."""
        gates, keywords, self.constants = [], [], {}
        for p in inspect.signature(self.function).parameters.values():
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise self._error("arguments", str(p), "gates, then keywords after a *")
            if p.kind is not p.KEYWORD_ONLY:
                gates.append(p.name)
            elif p.default is p.empty:
                keywords.append(p.name)
            else:
                value = constants.get(p.name, p.default)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise self._error(p.name, repr(value), "a number, which is a constant")
                self.constants[p.name] = float(value)
        if not 1 <= len(gates) <= MOST_GATES:
            got = f"{len(gates)} positional arguments"
            raise self._error("gates", got, f"1 to {MOST_GATES}")
        if gates[0] == "self":
            raise self._error("gates", "'self'", "a function, not a method: a gate comes first")
        told = *self.states, *self.weights, *self.inputs, *self.products
        for argument, names in TAKEN.items():
            for name in getattr(self, argument):
                if name in names:
                    raise self._error(argument, repr(name), "a name that a layer does not have")
        if sorted(keywords) != sorted(told):
            got, names = ", ".join(keywords) or "none", ", ".join(told) or "none"
            expected = f"the names of states=, weights=, inputs= and products=: {names}"
            expected += ", behind a *" * any(name in gates for name in told)
            raise self._error("keywords", got, expected)
        return tuple(gates)

    def _kinds(self, gates: tuple[str, ...], told: dict[str, str]) -> dict[str, frozenset[str]]:
        """Return the gates of each kind, each of which may have one kind."""
        free, kinds = set(gates), {}
        for kind, names in told.items():
            kinds[kind] = frozenset(names.split())
            for name in kinds[kind]:
                if name not in free:
                    expected = "names of gates, each once"
                    raise self._error(kind, repr(name), f"{expected}: {', '.join(gates)}")
                free.remove(name)
        if not free and kinds["h_only"] and not (kinds["x_only"] or kinds["apart"]):
            raise self._error("h_only", "all gates", "one gate that x has a part in")
        return kinds

    # --- what follows ---

    def step(
        self,
        parts: Sequence[Tensor],
        states: Sequence[Tensor],
        vectors: Sequence[Tensor],
        product: Product,
    ) -> tuple[Tensor, list[Tensor]]:
        """Call the function with its arguments by name, as `EngineCell.step`."""
        of_unit = dict(zip(self.vectors, vectors, strict=True))
        named: dict[str, Any] = dict(zip(self.states, states, strict=True))
        named |= {name: of_unit[name] for name in self.weights}
        called: list[str] = []

        def multiplied(name: str, *values: Any) -> Any:
            called.append(name)
            if called.count(name) > 1:
                raise self._error("products", f"{name} called twice", "one call of each a step")
            rows = parts[0].shape[:-1]
            is_one = len(values) == 1 and isinstance(values[0], Tensor) and values[0].dim() > 0
            if not is_one or values[0].shape[:-1] not in (rows, ()):  # (): of weights alone
                got = f"{name} of {', '.join(_shown(value) for value in values) or 'nothing'}"
                raise self._error("products", got, "one tensor of a gate's shape")
            columns = product(list(self.products).index(name), values[0].expand(*rows, -1))
            biases = [of_unit[bias] for bias in self.biases[name]]
            sums = tuple(a + b for a, b in zip(columns, biases, strict=True))
            return sums[0] if len(sums) == 1 else sums

        named |= {name: partial(multiplied, name) for name in self.products}
        arguments = self.gates.arguments(parts)
        count = len(arguments) - len(self.inputs)
        named |= zip(self.inputs, arguments[count:], strict=True)
        results = self(*arguments[:count], **named)
        if called != list(self.products):
            got, expected = ", ".join(called) or "none", ", ".join(self.products)
            raise self._error("products", f"calls of {got}", f"one of each, in order: {expected}")
        results = results if isinstance(results, tuple) else (results,)
        others = [name for name in self.states if name != "h"]
        if len(results) != 1 + len(others) or not all(isinstance(r, Tensor) for r in results):
            got = f"{len(results)} results" if all(isinstance(r, Tensor) for r in results) else (
                f"results of {', '.join(type(r).__name__ for r in results)}"
            )  # fmt: skip
            expected = ", ".join(["h", *(f"the next {name}" for name in others)])
            raise self._error("results", got, f"{1 + len(others)} tensors: {expected}")
        h, after = results[0], iter(results[1:])
        return h, [h if name == "h" else next(after) for name in self.states]

    def units(self, hidden_size: int, others: Mapping[str, int]) -> Units | None:
        """Return how many units values of a step have; None: all have hidden_size.

        others: name of a gate, a product, a state or an input -> how many it has.

        Raises:
            ValueError: a name or a number cannot be.
        """
        if not others:
            return None
        p, names = self.program(), {}
        if self.products:
            gates = self.gates.names[: len(self.gates.names) - len(self.inputs)]
            names = dict.fromkeys(gates, Widths.gates)
            names |= dict(zip(self.products, (2 + k for k in p.matrices), strict=True))
            names |= dict(zip(self.states, p.widths.of_states, strict=True))
            names |= dict(zip(self.inputs, p.widths.of_inputs, strict=True))
            names.pop("h", None)
        try:
            return units_of(p, names, others, hidden_size)
        except Refused as refused:
            raise self._error("units", refused.got, refused.expected) from None

    def refused(self) -> dict[str, str]:
        """Return the options that a layer of the cell cannot have: name -> why."""
        why = {}
        if self.weights:
            why["num_heads"] = "weights of a unit"
        if self.inputs:  # which lie among W x
            why["layer_norm"] = "inputs"
        if self.products:
            why |= dict.fromkeys(("layer_norm", "num_heads"), "products inside the step")
        if self.has_sums:
            why |= dict.fromkeys(("layer_norm", "num_heads"), "sums over units")
        if not self.gates.by_h:
            why |= dict.fromkeys(("layer_norm", "num_heads"), "no gate of h")
        if len(self.states) != 1:
            many = f"{len(self.states) or 'no'} states"
            why |= dict.fromkeys(("zoneout", "recurrent_dropout"), many)
        return why

    def _traced(self, zoneout: bool) -> Program:
        def step(parts: Sequence[Tensor], *others: Any) -> tuple[Tensor, list[Tensor]]:
            h, after = self.step(parts, *others)
            for result in (h, *after):
                if result.shape != parts[0].shape:
                    got = f"a tensor of {result.dim()} dimensions"
                    expected = "tensors of the gates' shape: operations are elementwise"
                    raise self._error("results", got, expected)
            return h, after

        try:
            inner = tuple(self.products.values())
            inputs = len(self.inputs)
            with TRACING:
                return program(step, self.gates, self.states, self.vectors, zoneout, inner, inputs)
        except CannotExpress as error:
            raise self._error("function", str(error), error.expected) from None
        except WrongCell:
            raise
        except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
            got, expected = _why_not_traced(error)
            raise self._error("function", got, expected) from error


def _why_not_traced(error: Exception) -> tuple[str, str]:
    """Return what an error of a function says that was traced, and what it should be."""
    text = str(error)
    if "aten._local_scalar_dense" in text or "Boolean value of Tensor" in text:
        return (
            "a decision of Python's on the value of a tensor, such as if, while, min or max",
            "torch.where(condition, a, b), torch.minimum or torch.maximum, for each unit",
        )
    if any(said in text for said in ("converted to Python scalars", "to Scalar", "numpy()")):
        return (
            f"a function of Python's or NumPy's numbers ({first_line(error)})",
            "torch's, of tensors: torch.exp(c), not math.exp(c) or float(c)",
        )
    if any(said in text for said in ("mat1 and mat2", "must be same size", "einsum", "for @",
                                     "size mismatch", "1D tensors expected")):  # fmt: skip
        return "a matrix product", INSTEAD["mm"]
    if "in-place operation" in text:
        return (
            f"an operation in place on an argument ({first_line(error)})",
            "x = torch.relu(x), not x.relu_()",
        )
    if "must match the size" in text or "shape mismatch" in text:
        return (
            f"tensors of two shapes ({first_line(error)})",
            "operations on the function's arguments, all of one shape: weights= for a vector that"
            " is trained, inputs= for what a call is given for each step",
        )
    if text.startswith("derivative for"):
        return (
            f"an operator without a derivative ({first_line(error)})",
            "one with a derivative; of a comparison torch.where(x > 0, 1.0, 0.0)",
        )
    if isinstance(error, ValueError):
        return first_line(error), "one that can be traced"
    expected = "one that runs on tensors, without control flow on their values"
    return f"{type(error).__name__} ({first_line(error)})", expected


def _shown(value: Any) -> str:
    """Return what a message calls an argument."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return type(value).__name__


def _by_name(
    argument: str, told: str | Mapping[str, float], function: Callable
) -> dict[str, float]:
    """Return name -> initial value, NaN where none was told."""
    usual = 0.0 if argument == "states" else math.nan
    values = dict.fromkeys(told.split(), usual) if isinstance(told, str) else dict(told)
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"cell {function.__name__}: {argument}: got {value!r} for {name}; expected a number"
            )
    return values


def _pickled(told: Cell) -> Any:
    """Return the name under which a cell's module has it, by which functions are pickled too.

    A cell that `with_` made is pickled as the one that it was made of, and the constants.
    """
    if told._origin is None:
        return told.__qualname__
    origin, constants = told._origin
    return _remade, (origin, constants)


def _remade(origin: Cell, constants: dict[str, float]) -> Cell:
    return origin.with_(**constants)


copyreg.pickle(Cell, _pickled)


def cell(
    function: Callable | None = None,
    *,
    states: str | Mapping[str, float] = "",
    weights: str | Mapping[str, float] = "",
    apart: str = "",
    x_only: str = "",
    h_only: str = "",
    inputs: str = "",
    products: str | Mapping[str, int] = "",
) -> Any:
    """Make a recurrent cell of a function, for `fused_lstm.Recurrent`; a decorator.

        @fused_lstm.cell(states="c")
        def lltm(i, o, g, *, c):
            c = c + F.elu(g) * torch.sigmoid(i)
            return torch.tanh(c) * torch.sigmoid(o), c

    The function computes what a step does between its matrix products, on tensors of one shape: by
    elementwise operations, and by sums and maxima over the units of a row, such as
    `x.mean(-1, keepdim=True)`, `torch.softmax(x, -1)` and `F.layer_norm(x, x.shape[-1:])`. Its
    positional arguments are one to eight gates: sums before activation, W x + b_ih + R h + b_hh, in
    the order of the weights' rows. Its keyword arguments are the states before the step, weights of
    a unit, inputs of the step, products, which it calls, and numbers with a default, which are
    constants (`with_` changes them). It returns h, then the next value of each state except h.
    Every engine's step and backward follow from it.

    Args:
        states: names, separated by spaces; or name -> the value that a sequence begins with, which
            is 0 otherwise. "h" is the output of the step before.
        weights: names of vectors [H], parameters of each layer; or name -> their initial value.
        apart: names of gates that the function takes as pairs: W x + b_ih, R h + b_hh.
        x_only: names of gates that are W x + b_ih alone, without rows in weight_hh and bias_hh.
            Where h has a part in no gate, a layer has neither.
        h_only: names of gates that are R h + b_hh alone, without rows in weight_ih and bias_ih.
        inputs: names of numbers of each step that are not multiplied, such as the time since the
            step before. A call has them by name, [T, B, 1] or [T, B, H], or with `units` as many
            as what they meet has; a layer is one layer then.
        products: names of matrix products inside the step, in the order in which the function calls
            them, each once: `u(r * h)` is U (r h) + b. Or name -> n, up to 4 columns of a unit,
            which a call returns as a tuple. A layer has weight_u [n*H, H] and bias_u [n*H]; see
            Recurrent's `units` for other widths than H.

    Raises:
        ValueError: the function cannot be a cell; the message names the function and the argument.
    """
    if function is None:
        return lambda f: Cell(f, states, weights, apart, x_only, h_only, inputs, products).checked()
    return Cell(function, states, weights, apart, x_only, h_only, inputs, products).checked()
