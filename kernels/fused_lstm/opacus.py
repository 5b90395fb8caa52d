"""The LSTM under Opacus: each sample's own gradients, from the one backward that there is anyway.

    import fused_lstm.opacus  # needs `pip install opacus`
    model = ModuleValidator.fix(model)  # as for nn.LSTM; or made of fused_lstm.opacus.LSTM
    model, optimizer, loader = PrivacyEngine().make_private(module=model, ...)

Opacus gives a sampler of gradients a module's positional inputs and the gradient by its first
output, which is not enough for an LSTM: states come and go beside them. So the module here shows
Opacus one tensor in and one out, keeps what its backward makes of each sample, and the sampler
hands it over.
"""

from __future__ import annotations

from functools import partial

import torch
from opacus.grad_sample import (
    GradSampleHooks,
    GradSampleHooksFastGradientClipping,
    register_grad_sampler,
)
from opacus.validators.errors import ShouldReplaceModuleError
from opacus.validators.utils import register_module_fixer, register_module_validator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from . import packing, twins
from .cell import NAMES, PLAIN, Cell
from .engines import STEP_BY_STEP
from .functional import State
from .lstm import LSTM as Base
from .ops import NATIVE, TRITON, draw_seed, precision_now
from .packing import Packing

__all__ = ["LSTM"]


class LSTM(Base):
    """fused_lstm.LSTM with gradients sample by sample, under Opacus's grad_sample_mode="hooks".

    Arguments, shapes and state_dict are fused_lstm.LSTM's. A sample is a row of the batch; lengths,
    resets, PackedSequence and states are as ever. A gradient by the last state counts, as one by
    the output does.

    Raises:
        ValueError: in training under Opacus, for an engine but `native` and `triton`, for
            fuse="pointwise" or "hoisted" or recompute, and for a cell with weights of its own.
    """

    _samples: dict[nn.Parameter, Tensor] | None = None  # what a backward has left for the sampler

    def __call__(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        if listener(self) is None:
            return super().__call__(input, hx, lengths, resets)
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        if not x.requires_grad:  # Opacus would ask before there is a backward
            x = x.detach().requires_grad_()
        batch = packing.rows(input) if packed else 1
        if x.dim() == 3:
            batch = x.shape[0 if self.batch_first else 1]
        if getattr(self, "activations", None):  # of a call whose backward is still to come
            batch = max(batch, self.max_batch_len)
        self.max_batch_len = batch
        shapes: list[torch.Size] = []
        given = {"lengths": lengths, "resets": resets, "of": input[1:] if packed else None}
        flat = super().__call__(x, hx=hx, **given, shapes=shapes)
        parts = flat[0].split([shape.numel() for shape in shapes])
        y, h_n, c_n = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return (PackedSequence(y, *input[1:]) if packed else y), (h_n, c_n)

    def forward(self, input, hx=None, lengths=None, resets=None, of=None, shapes=None):
        """Given `shapes`, which it fills: y, h_n and c_n one after another, as one [1, ...]."""
        x = input if of is None else PackedSequence(input, *of)
        y, (h_n, c_n) = super().forward(x, hx, lengths, resets)
        if shapes is None:
            return y, (h_n, c_n)
        outputs = y if of is None else y.data, h_n, c_n
        shapes += [t.shape for t in outputs]
        return torch.cat([t.flatten() for t in outputs])[None]

    def _instead(self, run, packed: Packing):
        return run if listener(self) is None else partial(self._sampled, run, packed)

    def _sampled(
        self, run, packed, x, h0, c0, weights, dropout, fuse,
        directions=1, batch_sizes=None, keep=None, cell: Cell = PLAIN, seed=None,
    ):  # fmt: skip
        """`run`, an engine's call, with a backward of its own."""
        if h0.shape[1] == 0:  # an engine of kernels is not asked
            self._keep([w.new_zeros(0, *w.shape) for w in weights])
            return run(x, h0, c0, weights, dropout, fuse, directions, batch_sizes, keep, cell, seed)
        ops = getattr(run, "args", (None,))[0]
        if ops not in (NATIVE, TRITON) or fuse in STEP_BY_STEP or self.recompute is not None:
            raise ValueError(
                f"engine: got {self.engine!r} with fuse={self.fuse!r} and recompute="
                f"{self.recompute!r}, should be 'native' or 'triton' at 'steps' or 'layers',"
                " without recompute: gradients sample by sample are of their kernels"
            )
        for name in NAMES:
            if getattr(self.cell, name):
                raise ValueError(
                    f"{name}: got True, should be False: it has no gradients by sample"
                )
        if seed is None and dropout > 0:
            seed = draw_seed(x.device)
        precision = precision_now(x.dtype, "rnn") if ops is NATIVE else None
        call = twins.LSTM(ops, dropout, fuse, True, directions, 3 + len(weights), cell, precision)
        given = x, h0, c0, *weights, seed, batch_sizes, keep
        mean = listener(self).loss_reduction == "mean"
        return Sampled.apply(self, call, mean, packed.back, *given)

    def _keep(self, found: list[Tensor]) -> None:
        """Each weight's gradients [B, ...], in the order of `weights`."""
        kept = self._samples or {}
        for weight, own in zip(self.weights(), found, strict=True):
            if weight.requires_grad:
                own = own.to(weight.dtype)
                kept[weight] = own if weight not in kept else added(kept[weight], own)
        self._samples = kept


def added(a: Tensor, b: Tensor) -> Tensor:
    """Of two calls' samples, which may not be as many."""
    if len(a) < len(b):
        a, b = b, a
    a[: len(b)] += b
    return a


def listener(module: nn.Module) -> GradSampleHooks | None:
    """What of Opacus wants this module's gradients by sample; None if nothing does.

    Raises NotImplementedError for a grad_sample_mode that does not take them from a sampler, or
    wants the sums too.
    """
    if not (module.training and torch.is_grad_enabled() and module._backward_hooks):
        return None
    owners = (getattr(hook.func, "__self__", None)
              for hook in module._backward_hooks.values() if isinstance(hook, partial))  # fmt: skip
    owner = next((own for own in owners if isinstance(own, GradSampleHooks)), None)
    if owner is None or not owner.hooks_enabled:
        return None
    ghost = isinstance(owner, GradSampleHooksFastGradientClipping)
    if ghost or owner.force_functorch or type(module) not in owner.GRAD_SAMPLERS:
        raise NotImplementedError(
            "fused_lstm.opacus.LSTM, itself and no subclass, has grad_sample_mode='hooks' alone"
        )
    return owner


class Sampled(torch.autograd.Function):
    """apply(module, call, mean, back, *tensors): as derivatives.Fused; of weights, a sample's each.

    mean: whether the loss is one over the batch; back [B]: where the engine has a sample of the
    user's, or None.
    """

    @staticmethod
    def forward(ctx, module, call, mean, back, *tensors):
        arguments, options = call.arguments(*tensors)
        y, h_n, c_n, *saved = call.kernel(*arguments, **options)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *call.kept(y, h_n, c_n, *saved))
        ctx.module, ctx.call, ctx.back, ctx.mean = module, call, back, mean
        return y, h_n, c_n

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        tensors = ctx.saved_tensors
        # Opacus takes a mean loss's gradients times the batch. The many are made so: the few that
        # go on are then divided.
        scale = ctx.module.max_batch_len if ctx.mean else 1
        grads = (None if g is None else g * scale for g in grads)
        backward = ctx.call.backward(ctx.needs_input_grad[4:])
        dx, dh0, dc0, *found = twins.PerSample(backward, tensors[1].shape[1]).kernel(
            *grads, *tensors
        )
        if ctx.back is not None:
            found = [g.index_select(0, ctx.back) for g in found]
        ctx.module._keep(found)
        states = (None if d is None else d / scale for d in (dx, dh0, dc0))
        return *[None] * 4, *states, *[None] * (len(tensors) - 4 - 3)


@register_grad_sampler(LSTM)
def take(module: LSTM, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Opacus's sampler: what the module's backward has left, [B, ...] for each of its weights.

    Opacus would add it to zeros of that size, which takes longer than to make it. Where there is
    nothing to add to, it is put where the sum would be.
    """
    found, module._samples = module._samples or {}, None
    for weight in list(found):
        first = not hasattr(weight, "_current_grad_sample")
        if first and len(found[weight]) == module.max_batch_len:
            weight._current_grad_sample = found.pop(weight)
    return found


@register_module_validator(Base)
def validate(module: Base) -> list[ShouldReplaceModuleError]:
    return [
        ShouldReplaceModuleError(
            "fused_lstm.LSTM has gradients by sample as fused_lstm.opacus.LSTM: ModuleValidator.fix"
            " makes it one"
        )
    ]


@register_module_fixer(Base)
def fix(module: Base) -> LSTM:
    module.__class__ = LSTM
    return module
