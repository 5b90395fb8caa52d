"""From a function of tensors to expressions: a table translates a record of ATen's operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .expressions import HEAVY, MASKS, CannotExpress, Expressions
from .record import Argument, Constant, Operation, Part, Place, recorded

# Advice for what a step cannot have, by ATen's operator.
INSTEAD = dict.fromkeys(
    ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "t", "permute", "transpose"),
    'products="u", a matrix that the layer learns, which the function calls as u(value)',
)
INSTEAD |= dict.fromkeys(
    ("sum", "mean", "var", "var_mean", "_softmax", "_log_softmax", "amax", "amin",
     "linalg_vector_norm", "native_layer_norm", "cumsum", "prod", "logsumexp", "max", "min",
     "argmax", "argmin", "median", "sort", "native_group_norm"),
    "x.sum(-1, keepdim=True), mean, var, std, amax, amin, logsumexp, a Euclidean norm, softmax(-1),"
    " F.layer_norm or F.rms_norm: over the units of a row, kept as a dimension",
)  # fmt: skip
INSTEAD |= dict.fromkeys(
    ("empty", "rand", "randn", "rand_like", "randn_like", "bernoulli", "native_dropout"),
    "no random numbers: zoneout=, recurrent_dropout= and dropout= of a layer draw them",
)
# Operators that take what is true or false as it is; for others it is 1 or 0.
OF_MASKS = {
    "where", "masked_fill", "detach", "alias", "clone", "expand", "view", "lift_fresh_copy",
    *(f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or", "not", "xor")),
}  # fmt: skip
# Arguments that say where a result lies and how.
PLACES = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit"}


def as_mask(e: Expressions, n: int) -> int:
    """Return the node of "n is not 0": n itself where it is a comparison, 1 or 0 of a constant."""
    if e.is_mask(n):
        return n
    value = e.value(n)
    return e.make("ne", n, e.const(0)) if value is None else e.const(value != 0)


def aten(e: Expressions) -> dict[str, Callable]:
    """Return ATen's operators that a cell may use: name -> what makes the result in `e`."""
    make, const = e.make, e.const
    one, zero = const(1), const(0)

    def elu(x, alpha=one, scale=one, input_scale=one):
        if {alpha, scale, input_scale} == {one}:
            return make("elu", x)
        low = make("mul", make("mul", scale, alpha), make("expm1", make("mul", x, input_scale)))
        return make("where", make("gt", x, zero), make("mul", x, scale), low)

    def elu_backward(d, alpha, scale, input_scale, is_result, x):
        plain = {alpha, scale, input_scale} == {one}
        if plain or is_result == one:  # of an operator in place, x is the result
            result = x if is_result == one else make("elu", x)  # which a step has computed
            low = mul(mul(d, input_scale), make("add", result, mul(scale, alpha)))
            return make("where", make("gt", result, zero), mul(d, scale), low)
        factor = mul(mul(scale, alpha), input_scale)
        low = mul(mul(d, factor), make("exp", mul(x, input_scale)))
        return make("where", make("gt", x, zero), mul(d, scale), low)

    def mul(a, b):
        return make("mul", a, b)

    def softplus(x, beta=one, threshold=None):
        bx = mul(x, beta)
        soft = make("div", make("log1p", make("exp", bx)), beta)
        limit = const(20) if threshold is None else threshold
        return make("where", make("gt", bx, limit), x, soft)

    def softplus_backward(d, x, beta, threshold):
        bx = mul(x, beta)
        return make("where", make("gt", bx, threshold), d, mul(d, make("sigmoid", bx)))

    def power(x, exponent):
        n, base = e.value(exponent), e.value(x)
        if n is None and base is not None and base > 0:
            return make("exp", mul(exponent, const(math.log(base))))
        if n is None or 2 * n != int(2 * n) or abs(n) > 16:
            got = "a power that is no constant" if n is None else f"the power {n}"
            raise CannotExpress(got, "a whole or a half power, from -16 to 16")
        if n < 0:
            return make("div", one, power(x, const(-n)))
        whole, result = int(n), make("sqrt", x) if n % 1 else one
        while whole:  # by squares
            result, x, whole = mul(result, x) if whole % 2 else result, mul(x, x), whole // 2
        return result

    def clamp(x, low=None, high=None):
        x = x if low is None else make("max", x, low)
        return x if high is None else make("min", x, high)

    def hardtanh(x, low=None, high=one):
        return clamp(x, const(-1) if low is None else low, high)

    def outside(d, x, low, high):
        is_outside = make("or", make("le", x, low), make("ge", x, high))
        return make("where", is_outside, zero, d)

    def sign(x):
        below = make("where", make("lt", x, zero), const(-1), zero)
        return make("where", make("gt", x, zero), one, below)

    def leaky(x, slope=None):
        slope = const(0.01) if slope is None else slope
        return make("where", make("gt", x, zero), x, mul(x, slope))

    def number(x, *_, **__):
        return make("where", x, one, zero) if e.is_mask(x) else x

    def where(mask, a, b):
        return make("where", mask, number(a), number(b))

    def logical(op):
        return lambda *masks: make(op, *(as_mask(e, x) for x in masks))

    def xor(a, b):
        return make("ne", number(as_mask(e, a)), number(as_mask(e, b)))

    def floor(x):
        return make("floor", x)

    def ceil(x):
        return make("neg", floor(make("neg", x)))

    def trunc(x):
        return make("where", make("lt", x, zero), ceil(x), floor(x))

    def rounded(x):  # half to even
        down, half = floor(x), const(0.5)
        rest, odd = make("sub", x, down), make("sub", down, mul(const(2), floor(mul(half, down))))
        near = make("where", make("lt", rest, half), down, make("add", down, odd))
        return make("where", make("gt", rest, half), make("add", down, one), near)

    def divided(a, b, rounding_mode=None):
        quotient = make("div", a, b)
        return {None: lambda q: q, "floor": floor, "trunc": trunc}[rounding_mode](quotient)

    def hardswish_backward(d, x):
        middle = mul(d, make("add", make("div", x, const(3)), const(0.5)))
        inside = make("where", make("lt", x, const(3)), middle, d)
        return make("where", make("gt", x, const(-3)), inside, zero)

    def logaddexp(a, b):
        apart = make("neg", make("abs", make("sub", a, b)))
        more = make("log1p", make("exp", apart))
        return make("where", make("eq", a, b), make("add", a, const(math.log(2))),
            make("add", make("max", a, b), more))  # fmt: skip

    def gelu_parts(x):  # of the normal distribution: the part below x, and its density there
        below = mul(const(0.5), make("add", one, make("erf", mul(x, const(math.sqrt(0.5))))))
        return below, mul(const(math.sqrt(0.5 / math.pi)), make("exp", mul(const(-0.5), mul(x, x))))

    def gelu_by_tanh(x):
        inner = mul(const(math.sqrt(2 / math.pi)),
            make("add", x, mul(const(0.044715), mul(x, mul(x, x)))))  # fmt: skip
        return make("tanh", inner)

    def gelu(x, approximate="none"):
        if approximate == "tanh":
            return mul(mul(const(0.5), x), make("add", one, gelu_by_tanh(x)))
        return mul(x, gelu_parts(x)[0])

    def gelu_backward(d, x, approximate="none"):
        if approximate == "tanh":
            t, factor = gelu_by_tanh(x), const(math.sqrt(2 / math.pi))
            slope = mul(factor, make("add", one, mul(const(3 * 0.044715), mul(x, x))))
            steep = mul(mul(x, make("sub", one, mul(t, t))), slope)
            return mul(d, mul(const(0.5), make("add", make("add", one, t), steep)))
        below, density = gelu_parts(x)
        return mul(d, make("add", below, mul(x, density)))

    same = {"maximum": "max", "minimum": "min", "clamp_min": "max", "clamp_max": "min"}
    plain = HEAVY | MASKS | {"mul", "neg", "abs", "relu"}
    table: dict[str, Callable] = {
        name: partial(make, op) for name, op in (same | {n: n for n in plain}).items()
    }
    for name in ("and", "or", "not"):
        table |= dict.fromkeys((f"logical_{name}", f"bitwise_{name}"), logical(name))
    for name in ("detach", "alias", "clone", "expand", "view", "lift_fresh_copy"):
        table[name] = lambda x, *_, **__: x
    sixth = const(torch.tensor(1 / 6, dtype=torch.float32).item())  # ATen's, in float64 too
    return table | {
        "_to_copy": number, "where": where, "logical_xor": xor, "bitwise_xor": xor,
        "isnan": lambda x: make("ne", x, x),
        "div": divided, "floor": floor, "ceil": ceil, "trunc": trunc, "round": rounded,
        "frac": lambda x: make("sub", x, trunc(x)),
        "remainder": lambda a, b: make("sub", a, mul(b, floor(make("div", a, b)))),
        "fmod": lambda a, b: make("sub", a, mul(b, trunc(make("div", a, b)))),
        "exp2": lambda x: make("exp", mul(x, const(math.log(2)))),
        "log2": lambda x: mul(make("log", x), const(1 / math.log(2))),
        "log10": lambda x: mul(make("log", x), const(1 / math.log(10))),
        "tan": lambda x: make("div", make("sin", x), make("cos", x)),
        "cosh": lambda x: mul(const(0.5), make("add", make("exp", x), make("exp", make("neg", x)))),
        "sinh": lambda x: mul(
            const(0.5), make("sub", make("expm1", x), make("expm1", make("neg", x)))
        ),
        "logaddexp": logaddexp, "gelu": gelu, "gelu_backward": gelu_backward,
        "hardswish": lambda x: make(
            "div", mul(x, clamp(make("add", x, const(3)), zero, const(6))), const(6)
        ),
        "hardswish_backward": hardswish_backward,
        "add": lambda a, b, alpha=one: make("add", a, mul(b, alpha)),
        "sub": lambda a, b, alpha=one: make("sub", a, mul(b, alpha)),
        "lerp": lambda a, b, weight: make("add", a, mul(weight, make("sub", b, a))),
        "addcmul": lambda a, b, c, value=one: make("add", a, mul(mul(b, c), value)),
        "addcdiv": lambda a, b, c, value=one: make("add", a, mul(make("div", b, c), value)),
        "rsub": lambda a, b, alpha=one: make("sub", b, mul(a, alpha)),
        "reciprocal": lambda x: make("div", one, x),
        "rsqrt": lambda x: make("div", one, make("sqrt", x)),
        "square": lambda x: mul(x, x),
        "pow": power, "clamp": clamp, "hardtanh_backward": outside,
        "hardtanh": hardtanh,
        "hardsigmoid": lambda x: make(
            "div", clamp(make("add", x, const(3)), zero, const(6)), const(6)
        ),
        "hardsigmoid_backward": lambda d, x: outside(mul(d, sixth), x, const(-3), const(3)),
        "leaky_relu": leaky,
        "leaky_relu_backward": lambda d, x, slope, _: make(
            "where", make("gt", x, zero), d, mul(d, slope)
        ),
        "sgn": sign, "sign": sign, "elu": elu, "elu_backward": elu_backward,
        "softplus": softplus, "softplus_backward": softplus_backward,
        "zeros_like": lambda *_, **__: e.absent, "zeros": lambda *_, **__: e.absent,
        "ones_like": lambda *_, **__: one,
        "full_like": lambda _, value, **__: value, "full": lambda _, value, **__: value,
        "scalar_tensor": lambda value, **__: value, "fill": lambda _, value: value,
        "empty_like": lambda *_, **__: const(float("nan")),  # which is filled
        "celu": lambda x, alpha=one: elu(x, alpha, one, make("div", one, alpha)),
        "mish": lambda x: mul(x, make("tanh", make("log1p", make("exp", x)))),
        "masked_fill": lambda x, mask, value: where(mask, value, x),
        "silu": lambda x: mul(x, make("sigmoid", x)),
        "log_sigmoid_forward": lambda x: (make("log_sigmoid", x), None),
        "log_sigmoid_backward": lambda d, x, _: mul(d, make("sigmoid", make("neg", x))),
        "sigmoid_backward": lambda d, s: mul(d, mul(s, make("sub", one, s))),
        "tanh_backward": lambda d, t: mul(d, make("sub", one, mul(t, t))),
        "threshold": lambda x, at, value: make("where", make("le", x, at), value, x),
        "threshold_backward": lambda d, r, at: make("where", make("le", r, at), zero, d),
    }  # fmt: skip


def traced(
    e: Expressions,
    function: Callable,
    leaves: Sequence[int],
    tensors: Sequence[Tensor],
    follows: dict[str, bool],
) -> list[int]:
    """Return the numbers in `e` of a function's results.

    Args:
        function: takes `tensors` and returns a tuple of tensors.
        leaves: the number in `e` of each argument.
        follows: an operation of masks and numbers alone -> whether its dtype is that of `tensors`,
            filled by the first of two traces. It computes in that dtype, so that its numbers stay
            as they are; in another one they are rounded.

    Raises:
        CannotExpress: the function uses an operation that no kernel has.
    """
    record = recorded(function, tensors)
    table, like = aten(e), tensors[0]
    env: dict[int, Any] = dict(enumerate(leaves))  # place in the record -> number in `e`
    weak = set()  # places of numbers alone, of masks too, of any dtype

    def number(x: Any, dtype: torch.dtype | None = None) -> Any:
        if isinstance(x, Place):
            return env[x.number]
        if not isinstance(x, int | float):
            return x
        return e.const(x if dtype is None else torch.tensor(x, dtype=dtype).item())

    for place, step in enumerate(record.steps):
        if isinstance(step, Argument):
            continue
        if isinstance(step, Constant):
            if step.tensor.numel() != 1:
                raise CannotExpress(f"a constant tensor of shape {list(step.tensor.shape)}")
            env[place] = e.const(step.tensor.item())
            weak.add(place)
            continue
        if isinstance(step, Part):
            env[place] = env[step.of][step.index]
            continue
        dtype = None
        if all(n in weak or e.is_mask(env[n]) for n in step.reads):
            weak.add(place)
            dtype = getattr(step.value, "dtype", None)
            is_rounded = dtype in (torch.float32, torch.float64)
            if follows.setdefault(step.name, dtype == like.dtype) or not is_rounded:
                dtype = None
        name = step.operator
        _check(step, table, like, place in weak)
        kwargs = {k: number(v, dtype) for k, v in step.kwargs.items() if k not in PLACES}
        try:
            args = [number(x, dtype) for x in step.args]
            if name not in OF_MASKS:
                args = [table["_to_copy"](x) if type(x) is int else x for x in args]
            made = table[name](*args, **kwargs)
            is_true_or_false = isinstance(step.value, Tensor) and step.value.dtype == torch.bool
            env[place] = as_mask(e, made) if is_true_or_false else made
        except (TypeError, KeyError):
            told = ", ".join(f"{k}={v!r}" for k, v in step.kwargs.items()) or "these arguments"
            raise CannotExpress(f"torch's operator {name!r} with {told}") from None
    return [env[place] for place in record.results]


def _check(step: Operation, table: dict[str, Callable], like: Tensor, is_weak: bool) -> None:
    """Check that an operation has a kernel, and changes neither shape nor dtype."""
    name, value = step.operator, step.value
    if name in INSTEAD:
        raise CannotExpress(f"torch's operator {name!r}", INSTEAD[name])
    if name not in table:
        raise CannotExpress(f"torch's operator {name!r}")
    if not isinstance(value, Tensor):
        return
    if name.startswith("bitwise_") and value.dtype != torch.bool:
        raise CannotExpress(f"torch's operator {name!r} of whole numbers")
    if value.shape not in (like.shape, ()):
        raise CannotExpress(f"torch's operator {name!r}, which changes a shape")
    if value.dtype not in (like.dtype, torch.bool) and not is_weak:
        usual = torch.get_default_dtype()
        raise CannotExpress(
            f"a conversion to {value.dtype}",
            "one dtype in all operations"
            + f"; {usual} is torch's default here, to which comparisons and numbers alone are"
            " converted: write (x > 0).to(x.dtype)" * (value.dtype == usual != torch.float32),
        )
