"""Sums and maxima over the units of a row: what PyTorch's reductions become inside a step.

Two operations let all units of a row meet beside products: a sum and a maximum. The rules below say
what other reductions are in these. `fused_lstm.fuse` applies them to a graph, and `Totals` to what
a function writes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from .trace import CannotExpress

# How units meet: in a product with a matrix, or in one number a row.
PRODUCT, SUM, MAXIMUM = "product", "sum", "maximum"

# --- rules: each leaves sums, maxima and elementwise operations ---


def share(x: Tensor, dim: Any) -> float | Tensor:
    """Return 1 over how many numbers a sum adds up."""
    if has_torch_function((x,)):  # a trace, which knows no number of units
        return handle_torch_function(share, (x,), x, dim)
    return 1 / prod(x.shape[d] for d in dims_of(dim, x))


def mean(x: Tensor, dim: Any = None, keepdim: bool = False, dtype: None = None) -> Tensor:
    """Return a mean."""
    _check_dtype("mean", dtype)
    return x.sum(dim, keepdim) * share(x, dim)


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Return a layer norm by two passes: the mean, then the squares of differences from it."""
    dims = list(range(-len(normalized_shape), 0))
    middle = mean(x, dims, True)
    x, square = x - middle, _square_around(middle, x)
    x = x * torch.rsqrt(mean(square, dims, True) + eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _square_around(middle: Tensor, x: Tensor) -> Tensor:
    """Return the squares of differences from a mean.

    No gradient goes through that mean, since the differences are 0 in sum.
    """
    difference = x - middle.detach()
    return difference * difference


def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Return x over the root of its mean square."""
    if eps is None:
        raise CannotExpress("rms_norm without eps, which depends on the dtype", "eps=1e-6")
    dims = list(range(-len(normalized_shape), 0))
    x = x * torch.rsqrt(mean(x * x, dims, True) + eps)
    return x if weight is None else x * weight


def var(
    x: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: float | None = None,
) -> Tensor:
    """Return a variance by two passes."""
    correction = float(unbiased) if correction is None else correction
    square = mean(_square_around(mean(x, dim, True), x), dim, keepdim)
    return square if correction == 0 else square / (1 - correction * share(x, dim))


def std(
    x: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: float | None = None,
) -> Tensor:
    """Return the root of a variance."""
    return torch.sqrt(var(x, dim, unbiased, keepdim, correction))


def norm(
    x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: None = None
) -> Tensor:
    """Return a Euclidean norm, whose gradient is 0 where it is 0."""
    _check_dtype("norm", dtype)
    if p not in (None, 2, "fro"):
        raise CannotExpress(f"the norm {p!r}", "the Euclidean norm")
    total = (x * x).sum(dim, keepdim)
    is_zero = total == 0
    return torch.where(is_zero, 0.0, torch.sqrt(torch.where(is_zero, 1.0, total)))


def vector_norm(
    x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: None = None
) -> Tensor:
    """Return a Euclidean norm, as torch.linalg is asked for it."""
    return norm(x, ord, dim, keepdim, dtype)


def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Return x over its Euclidean norm."""
    return x / norm(x, p, dim, True).clamp_min(eps)


def softmax(x: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: None = None) -> Tensor:
    """Return a softmax."""
    _check_dtype("softmax", dtype)
    part = torch.exp(x - x.amax(dim, keepdim=True).detach())
    return part / part.sum(dim, keepdim=True)


def log_softmax(x: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: None = None) -> Tensor:
    """Return the logarithm of a softmax."""
    _check_dtype("log_softmax", dtype)
    x = x - x.amax(dim, keepdim=True).detach()
    return x - torch.log(torch.exp(x).sum(dim, keepdim=True))


def logsumexp(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Return the logarithm of a sum of exponentials."""
    most = x.amax(dim, keepdim=True).detach()
    most = torch.where(torch.abs(most) == float("inf"), 0.0, most)
    total = torch.log(torch.exp(x - most).sum(dim, keepdim=True)) + most
    return total if keepdim else total.squeeze(dim)


def amin(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Return a minimum."""
    return -(-x).amax(dim, keepdim)


def dims_of(dim: Any, x: Tensor) -> list[int]:
    """Return dimensions as numbers of 0 or more; None: all."""
    dims = range(x.dim()) if dim is None else (dim,) if isinstance(dim, int) else dim
    return [d % x.dim() for d in dims]


def _check_dtype(name: str, dtype: torch.dtype | None) -> None:
    if dtype is not None:
        raise CannotExpress(f"{name} with dtype={dtype}", "the dtype of its argument")


# --- a function's own reductions ---

OF_UNITS: dict[Any, Callable] = {
    F.layer_norm: layer_norm, torch.layer_norm: layer_norm, F.rms_norm: rms_norm,
    torch.rms_norm: rms_norm, F.normalize: normalize, F.softmax: softmax, torch.softmax: softmax,
    Tensor.softmax: softmax, F.log_softmax: log_softmax, torch.log_softmax: log_softmax,
    Tensor.log_softmax: log_softmax, torch.logsumexp: logsumexp, Tensor.logsumexp: logsumexp,
    torch.mean: mean, Tensor.mean: mean, torch.var: var, Tensor.var: var, torch.std: std,
    Tensor.std: std, torch.norm: norm, Tensor.norm: norm, torch.linalg.norm: vector_norm,
    torch.linalg.vector_norm: vector_norm, torch.amin: amin, Tensor.amin: amin,
}  # fmt: skip
KINDS = {torch.sum: SUM, Tensor.sum: SUM, torch.amax: MAXIMUM, Tensor.amax: MAXIMUM}


class Totals(TorchFunctionMode):
    """A mode in which a sum or a maximum over units is `total(kind, value)`, as wide as its value.

    A trace is of tensors of one shape, so a result is one number a row in every unit.

    Args:
        total: (SUM or MAXIMUM, value) -> the result; of a maximum without a gradient.
        share_of: value -> 1 over the number of units that a sum of it adds up.
    """

    def __init__(
        self, total: Callable[[str, Tensor], Tensor], share_of: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.total, self.share_of = total, share_of
        self._maxima: list[tuple[Tensor, Tensor]] = []  # with a gradient, and without

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is share:
            return self.share_of(args[0])
        if func is Tensor.detach:  # of a maximum: no gradient asks which units have it
            args = next(((plain,) for most, plain in self._maxima if most is args[0]), args)
        if func not in OF_UNITS and func not in KINDS:
            return func(*args, **kwargs)
        told = _checked(func, OF_UNITS.get(func, amin), args, kwargs)
        x = told["x"]
        with self:  # a rule has sums of its own
            if func in OF_UNITS:
                return OF_UNITS[func](**told)
            return self.total(SUM, x) if KINDS[func] == SUM else self._amax(x)

    def _amax(self, x: Tensor) -> Tensor:
        """Return a maximum over units, whose gradient goes to all units that have it, in parts."""
        most = self.total(MAXIMUM, x)
        has_it = x == most
        count = self.total(SUM, has_it.to(x.dtype)).detach()
        nothing = self.total(SUM, torch.where(has_it, x - most, 0.0))
        self._maxima.append((most + nothing / count, most))
        return self._maxima[-1][0]


def _checked(func: Any, rule: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a reduction's arguments by name; it has to be over the units of a row, kept as one."""
    name, kwargs = func.__name__, {k: v for k, v in kwargs.items() if v is not None}
    told = inspect.signature(rule).bind(*args, **kwargs)
    told.apply_defaults()
    named, x = told.arguments, told.arguments["x"]
    if "normalized_shape" in named:
        shape = named["normalized_shape"]
        if tuple(shape) != tuple(x.shape[-1:]):
            raise CannotExpress(f"{name} of shape {list(shape)}", f"F.{name}(x, x.shape[-1:], ...)")
        return named
    dim, keeps = named["dim"], "keepdim" in named
    if dim is None or dims_of(dim, x) != [x.dim() - 1] or (keeps and not named["keepdim"]):
        got = f"{name} with dim={dim!r}" + f", keepdim={named.get('keepdim')}" * keeps
        expected = f"x.{name}(-1{', keepdim=True' * keeps}), over the units of a row"
        raise CannotExpress(got, expected)
    return named
