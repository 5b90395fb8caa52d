"""PyTorch's elementwise functions in a cell: each is right, or it is refused.

A cell's expressions are evaluated by PyTorch, and compared with the function and its gradients. No
compiler is needed, so there are a thousand; test_custom_functions.py compiles those of a table.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fused_lstm.cells import print_cpp
from fused_lstm.cells.definition import Cell


def split(texts):
    return [text.strip() for line in texts.splitlines() for text in line.split(";")]


ONE = split("""abs;positive;sign;exp;exp2;expm1;log;log2;log10;log1p;sqrt;rsqrt;square;reciprocal
    sin;cos;tan;sinh;cosh;tanh;asin;acos;atan;asinh;acosh;atanh;sigmoid;logit;erf;erfc;floor;ceil
    trunc;round;frac;relu;deg2rad;sinc;isnan;isinf;isfinite;signbit;nan_to_num;clone;detach;lgamma
    logical_not;celu;selu;neg;i0;special.expit;special.log_ndtr;special.entr""")
TWO = split("""add;sub;multiply;div;floor_divide;remainder;fmod;pow;maximum;minimum;fmax;fmin;atan2
    hypot;copysign;logaddexp;logaddexp2;float_power;heaviside;xlogy;rsub""")
OF_TWO = split("x, y;x, 1.3;1.3, y;x, 2;torch.abs(x) + 0.1, y;x > 0, y;y, x > 0;x, True")
COMPARE = split("lt;le;gt;ge;eq;ne;logical_and;logical_or;logical_xor;isclose")
OF_COMPARE = split("x, y;x, 0;x > 0, y > 0;x > 0, True;x > 0, 1;x, True;x > 0, 0.5;x > 0, y")
ACTIVATIONS = split("""elu(x);elu(x, 0.3);elu_(z);elu_(z, 0.3);selu(x);selu(z, inplace=True)
    celu(x, 0.3);celu(x, 2);celu(z, 0.3, inplace=True);leaky_relu(x, 0.3);leaky_relu(x, -0.3)
    leaky_relu_(z);leaky_relu_(z, 0.3);relu(z, inplace=True);relu6(x);relu6(z, inplace=True)
    hardtanh(x);hardtanh(x, -0.3, 0.2);hardtanh_(z);hardtanh_(z, -0.3);hardtanh_(z, max_val=0.3)
    hardsigmoid(x);hardsigmoid(z, inplace=True);hardswish(x);hardswish(z, inplace=True);silu(x)
    silu(z, inplace=True);mish(x);mish(z, inplace=True);gelu(x);gelu(x, approximate='tanh')
    softplus(x);softplus(x, 2.0);softplus(x, 2.0, 0.5);softplus(x, -1.0);softsign(x);tanhshrink(x)
    logsigmoid(x);threshold(x, 0.1, 0.7);threshold_(z, 0.1, 0.7);prelu(x, y);rrelu(x)
    hardshrink(x);softshrink(x);glu(x);dropout(x, 0.5, training=False);normalize(x)
    smooth_l1_loss(x, y, reduction='none');huber_loss(x, y, reduction='none')""")
IN_PLACE = split("""relu_();sigmoid_();tanh_();sqrt_();abs_();neg_();reciprocal_();clamp_(0, 1)
    clamp_min_(0.2);pow_(2);add_(y, alpha=3);sub_(y, alpha=3);mul_(y);div_(y)
    div_(y, rounding_mode='floor');addcmul_(x, y);lerp_(y, 0.3);masked_fill_(y > 0, 2);copy_(y)
    fill_(2);zero_();floor_();round_();where(x > 0, y)""")
MASKS = split("""(x > 0) * y;(x > 0) * (y > 0) * x;((x > 0) + (y > 0)) * x
    ((x > 0) & (y > 0)).to(x) * x;((x > 0) ^ (y > 0)).to(x) * x;(x > 0).int() * y
    ((x > 0).int() + (y > 0).int()) * x;((x > 0).int() - (y > 0).int()) * x
    ((x > 0).int() & 1) * x;((x > 0).int() | 2) * x;(~(x > 0).int()) * x;((x > 0).int() // 2) * x
    ((x > 0).int() / 2) * x;(x > 0).type_as(x) * x;~(x > 0) * y;F.relu(x).bool() * y
    (x > 0).bool() * y;torch.bitwise_and(x > 0, True) * x;torch.bitwise_or(x > 0, False) * x
    x.masked_fill(y > 0, True);x + torch.tensor(True);torch.where(y > 0, x, 0)
    torch.where(y > 0, 1, 2) * x;torch.where(y > 0, True, False) * x
    torch.where(y > 0, x > 1, y < -1) * x;torch.where(torch.tensor(True), x, y)
    (x > 0).to(x.dtype) * 0.2 + y;(x > 0).to(x.dtype) * 0.2 * 3 * y;(y > x).to(x) / 3 - 0.7
    ((x > 0).to(x.dtype) - (y > 0).to(x.dtype)) * 0.3;(x > 0).float() * 0.2 * x
    torch.maximum(x > 0, y > 0) * x;torch.minimum(x > 0, y > 0) * x;(x > 0).logical_not() * x""")
FLAT = split("""torch.round(torch.clamp(x, -1, 1) * 7) / 7 + y;torch.sign(F.relu(x)) * y
    torch.floor(F.hardsigmoid(x)) - y;torch.floor(x.masked_fill(y > 0, 0)) * y
    torch.ceil(torch.where(x > 0, x, 0.3)) + y;torch.round(F.leaky_relu(x)) * y
    torch.trunc(F.hardtanh(F.hardtanh(x, -2, 2))) * y;torch.sign(F.softplus(x)) + y""")
OTHERS = split("""x ** 3;x ** -1;x.abs() ** 0.5;x ** 0;2 ** x;0.5 ** x;x // 2;x % y;-x % 1.0
    2 % (y.abs() + 0.5);torch.clamp(x, max=y);torch.clamp(x, y, y.abs())
    torch.lerp(x, y, torch.sigmoid(x));torch.addcdiv(x, x, y.abs() + 1, value=0.3)
    torch.add(x, y, alpha=2);torch.rsub(x, y, alpha=2);torch.round(x * 9, decimals=1)
    torch.div(x, y, rounding_mode='trunc');(x - y).detach() + y;torch.full_like(x, 2) * y
    torch.zeros(()) + x;x.new_full(x.shape, 2.0) * x;x.double();x.item() * y;x.flip(-1)
    x.mean() * x;x.cumsum(-1);x.expand_as(y);x.view(x.shape);x.max(y);len(x) * y""")


# Reductions over the units of a row.
SUMS = split("""x.sum(-1, keepdim=True) * y;torch.sum(x, dim=1, keepdim=True) + y
    x - x.mean(-1, True)
    F.layer_norm(x, x.shape[-1:]);F.layer_norm(x, x.shape[-1:], eps=0.3) * y;F.softmax(x, -1) * y
    F.rms_norm(x, x.shape[-1:], eps=0.1);x.softmax(-1);torch.log_softmax(x, dim=-1)
    torch.logsumexp(x, -1, keepdim=True) * y;x.amax(-1, keepdim=True) - y
    y.amax(-1, keepdim=True) * x;y.amin(-1, keepdim=True) * x;x.var(-1, keepdim=True) + y
    x.var(-1, unbiased=False, keepdim=True) + y;torch.var(x, -1, correction=0, keepdim=True) * y
    x.std(-1, keepdim=True) * y;x.norm(dim=-1, keepdim=True) * y;F.normalize(x, dim=-1)
    torch.linalg.norm(y, dim=-1, keepdim=True) + x;F.normalize(x * 0, dim=-1) + y
    torch.linalg.vector_norm(x, 2, -1, True) - y;(x * y).sum(-1, keepdim=True).sqrt() * x
    x / x.sum(-1, keepdim=True).detach();x.mean(-1, keepdim=True) * x.var(-1, keepdim=True) + y
    torch.where(x == x.amax(-1, keepdim=True), x, y);x.softmax(-1).softmax(-1) + y""")
# Those that are none over units that are kept as one: they are refused.
REFUSED = split("""x.sum() * y;x.sum(0, keepdim=True) * y;x.mean() + x;x.sum(-1) + y;x.softmax(0)
    F.layer_norm(x, [3, 3]);F.normalize(x, 1.0, -1);x.cumsum(-1);x.norm(1, -1, True) * y
    x.amax(-1, keepdim=True).sum(-1, keepdim=True) * y;x.prod(-1, keepdim=True) * y
    F.rms_norm(x, x.shape[-1:]);x.sum(-1, keepdim=True) / x.shape[-1] + y""")


def compared(name):
    """Yield what may become of a comparison."""
    for of in OF_COMPARE:
        mask = f"torch.{name}({of})"
        yield from (f"torch.where({mask}, x, 2 * y)", f"{mask} * x + y", f"(~{mask}) * x + y")


TEXTS = {name: [f"torch.{name}(x)", f"z.{name}_()"] for name in ONE}
TEXTS |= {name: [f"torch.{name}({of})" for of in OF_TWO] for name in TWO}
TEXTS |= {name: list(compared(name)) for name in COMPARE}
TEXTS |= {"activations": [f"F.{text}" for text in ACTIVATIONS], "masks": MASKS}
TEXTS["masks without a gradient"] = FLAT  # 0 on both sides of a mask
TEXTS |= {"sums": SUMS, "others": OTHERS + REFUSED}
TEXTS |= {"in place": [f"z.{text}" for text in IN_PLACE]}
# The forms that the page recommends are not refused.
TAKEN = "(x > 0).to(x.dtype) * 0.2 + y", "(x > 0).to(x.dtype) * 0.2 * 3 * y", *SUMS
QUICK = ("activations", "sums", "masks", "masks without a gradient", "in place")
EVALUATE = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg,
    "max": torch.maximum, "min": torch.minimum, "abs": torch.abs, "relu": torch.relu,
    "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne,
    "and": torch.logical_and, "or": torch.logical_or, "not": torch.logical_not,
    "where": torch.where, "exp": torch.exp, "expm1": torch.expm1, "log": torch.log,
    "log1p": torch.log1p, "sqrt": torch.sqrt, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "log_sigmoid": F.logsigmoid, "elu": F.elu, "sin": torch.sin, "cos": torch.cos,
    "erf": torch.erf, "floor": torch.floor,
}  # fmt: skip
X = [[-2.3, -1.0, -0.4], [0.0, 0.25, 1.0], [1.5, 2.0, 3.7]]
Y = [[0.7, -1.3, 0.0], [1.0, -0.6, 1.0], [-2.0, 2.0, 0.9]]


def evaluated(p, leaves):
    """The values of a program's nodes. An operand is a mask where the operation takes one."""
    values = {}

    def leaf(kind, k):
        if kind == "share":
            return torch.tensor(1 / 3, dtype=torch.float64)
        if kind in ("product", "dfed"):  # a sum or a maximum of units, each of which makes a column
            units = value(p.fed[k] if kind == "product" else p.dproducts[k]).expand(3, 3)
            over = torch.amax if p.kinds[k] == "maximum" else torch.sum
            return over(units, -1, keepdim=True).expand(3, 3)
        return leaves[kind, k]

    def value(n):
        if n not in values:
            op, *rest = p.expressions.nodes[n]
            if op == "const":
                values[n] = torch.tensor(rest[0], dtype=torch.float64)
            elif op == "leaf":
                values[n] = leaf(*rest)
            else:
                operands = [value(o) for o in rest]
                masks = {"and": 2, "or": 2, "not": 1, "where": 1}.get(op, 0)
                assert [t.dtype == torch.bool for t in operands] == [
                    k < masks for k in range(len(rest))
                ]
                values[n] = EVALUATE[op](*operands)
        return values[n]

    return value


def functions_of(text):
    """A function of two gates, and what PyTorch makes of it: its value and its gradients."""
    space = {"torch": torch, "F": F}
    exec(f"def function(x, y):\n    z = x * 1.0\n    return {text}\n", space)
    x, y = (torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (X, Y))
    result = space["function"](x, y)
    if not isinstance(result, torch.Tensor) or result.dtype != x.dtype or result.shape != x.shape:
        raise TypeError(text)
    grads = torch.autograd.grad(result.sum(), [x, y], allow_unused=True, materialize_grads=True)
    return space["function"], [result.detach(), *grads]


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TEXTS],
)
def test_it_is_right_or_refused(name):
    right = 0
    for text in TEXTS[name]:
        try:
            function, wanted = functions_of(text)
        except (RuntimeError, TypeError, AttributeError):
            continue  # PyTorch has no such function, or no derivative of it
        try:
            p = Cell(function).checked().program()
        except ValueError:
            assert text not in TAKEN + tuple(FLAT)
            continue
        assert text not in REFUSED
        x, y = (torch.tensor(values, dtype=torch.float64) for values in (X, Y))
        leaves = {("gate", 0): x, ("gate", 1): y, ("dh", 0): torch.ones_like(x)}
        value = evaluated(p, leaves)
        gradients = [*p.dgates, *p.dproducts]
        needed = set(p.expressions.order(gradients, p.known)) - p.known
        kinds = [p.expressions.nodes[n][:2] for n in needed]
        assert ("leaf", "gate") not in kinds, f"{text}: a gate that is not saved"
        assert print_cpp.source(p)
        for n, expected in zip((p.h, *p.dgates), wanted, strict=True):
            found = value(n).expand_as(x)
            torch.testing.assert_close(
                found, expected, rtol=1e-12, atol=1e-13, equal_nan=True,
                msg=lambda why, text=text: f"{text}: {why}",
            )  # fmt: skip
        right += 1
    assert right > 0 or name not in QUICK
