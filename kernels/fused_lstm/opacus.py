"""LSTM, GRU and RNN under Opacus: the gradients of each sample, from a single backward.

    import fused_lstm.opacus  # needs `pip install opacus`
    model = ModuleValidator.fix(model)  # as for nn.LSTM; or made of fused_lstm.opacus.LSTM
    model, optimizer, loader = PrivacyEngine().make_private(module=model, ...)

Opacus passes to a gradient sampler a module's positional inputs and the gradient by its first
output. A recurrent layer also has states as inputs and outputs. So the module shows Opacus one
input and one output tensor, keeps the gradients that its backward makes of each sample, and the
sampler returns those.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
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

from .call.choose import STEP_BY_STEP
from .call.layout import State, batch_of, data_of, with_data
from .call.record import Call, Run
from .call.spec import Spec
from .layers import modules
from .operator import autograd
from .operator.ops import NATIVE, TRITON

__all__ = ["LSTM", "GRU", "RNN"]

OPERATORS = {"native": NATIVE, "triton": TRITON}


class Sampled(modules.RecurrentBase):
    """A layer with per-sample gradients, under Opacus's grad_sample_mode="hooks".

    Arguments, shapes and state_dict are those of the class of the same name in fused_lstm. A sample
    is a row of the batch. lengths, resets, PackedSequence and states work as usual. The loss may
    depend on the output and on the last state.

    Raises:
        ValueError: in training under Opacus, for any engine except `native` and `triton`, and for
            fuse="pointwise" or "hoisted", recompute or return_states.
    """

    _samples: dict[nn.Parameter, Tensor] | None = None  # a backward's gradients for the sampler

    def __call__(
        self,
        input: Tensor | PackedSequence,
        hx: State | Tensor | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        if listener(self) is None:
            return super().__call__(input, hx, lengths, resets, return_states)
        if return_states:
            raise ValueError("return_states: got True under Opacus; expected False")
        x = data_of(input)
        if not x.requires_grad:  # else Opacus would call the sampler before the backward
            x = x.detach().requires_grad_()
        batch = batch_of(input, self.batch_first)
        if getattr(self, "activations", None):  # a call whose backward has not run yet
            batch = max(batch, self.max_batch_len)
        self.max_batch_len = batch
        shapes: list[torch.Size] = []
        options = {"lengths": lengths, "resets": resets, "of": input}
        flat = super().__call__(x, hx=hx, **options, shapes=shapes)
        parts = flat[0].split([shape.numel() for shape in shapes])
        y, *last = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return with_data(input, y), tuple(last) if self.spec.has_c else last[0]

    def forward(
        self, input, hx=None, lengths=None, resets=None, return_states=False, of=None, shapes=None
    ):
        """Run the layer; with `shapes` return y and the last state flattened into one [1, .].

        shapes: an empty list, to be filled with the shapes of y and the last state.
        """
        x = input if of is None else with_data(of, input)
        outputs = super().forward(x, hx, lengths, resets, return_states)
        if shapes is None:
            return outputs
        y, last = outputs
        outputs = data_of(y), *(last if self.spec.has_c else (last,))
        shapes += [t.shape for t in outputs]
        return torch.cat([t.flatten() for t in outputs])[None]

    def _override(self, engine: str, run: Run, call: Call) -> tuple[Tensor, ...]:
        """Run a call with a backward that keeps samples apart. run: the engine's function."""
        spec = call.spec
        if listener(self) is None:
            return run(call)
        if call.h0.shape[1] == 0:  # an empty batch launches no kernel
            self._keep([w.new_zeros(0, *w.shape) for w in call.weights])
            return run(call)
        if spec.in_heads:
            raise ValueError(
                f"num_heads: got {spec.num_heads} under Opacus; expected 1: the operator of heads "
                "has no per-sample gradients"
            )
        if engine not in OPERATORS or spec.level in STEP_BY_STEP or self.recompute is not None:
            raise ValueError(
                f"engine: got {self.engine!r} with fuse={self.fuse!r} and recompute="
                f"{self.recompute!r}; expected 'native' or 'triton' at 'steps' or 'layers' without"
                " recompute, which have per-sample gradients"
            )
        mean = listener(self).loss_reduction == "mean"
        back = None if call.rows is None else call.rows.back
        told = OPERATORS[engine], spec, call.constants, back
        return Gradients.apply(self, mean, told, *call.inputs)

    def _keep(self, grads: list[Tensor], back: Tensor | None = None) -> None:
        """Keep each weight's gradients [B, ...], in the order of `weights`.

        back: [B], the engine's row of each of the user's samples, or None where they are the same.
        """
        kept = self._samples or {}
        for weight, grad in zip(self.weights(), grads, strict=True):
            if weight.requires_grad:
                grad = (grad if back is None else grad.index_select(0, back)).to(weight.dtype)
                kept[weight] = grad if weight not in kept else added(kept[weight], grad)
        self._samples = kept


class LSTM(Sampled, modules.LSTM):
    __doc__ = Sampled.__doc__


class GRU(Sampled, modules.GRU):
    __doc__ = Sampled.__doc__


class RNN(Sampled, modules.RNN):
    __doc__ = Sampled.__doc__


def added(a: Tensor, b: Tensor) -> Tensor:
    """Add the gradients of two calls, which may have different numbers of samples."""
    if len(a) < len(b):
        a, b = b, a
    a[: len(b)] += b
    return a


def listener(module: nn.Module) -> GradSampleHooks | None:
    """Return the Opacus object that wants this module's per-sample gradients, or None.

    Raises NotImplementedError for a grad_sample_mode other than "hooks".
    """
    if not (module.training and torch.is_grad_enabled() and module._backward_hooks):
        return None
    owners = (getattr(hook.func, "__self__", None)
              for hook in module._backward_hooks.values() if isinstance(hook, partial))  # fmt: skip
    owner = next((o for o in owners if isinstance(o, GradSampleHooks)), None)
    if owner is None or not owner.hooks_enabled:
        return None
    ghost = isinstance(owner, GradSampleHooksFastGradientClipping)
    if ghost or owner.force_functorch or type(module) not in owner.GRAD_SAMPLERS:
        raise NotImplementedError(
            f"grad_sample_mode: got another mode, or a subclass of fused_lstm.opacus."
            f"{type(module).__name__}; expected 'hooks' and the class itself"
        )
    return owner


class Gradients(torch.autograd.Function):
    """apply(module, mean, call, x, h0, c0, *weights): the operator `lstm`, by sample.

    mean: whether the loss is a mean over the batch.
    """

    @staticmethod
    def forward(ctx, module, mean, call, x, h0, c0, *weights):
        ops, spec, (seed, batch_sizes, not_reset), ctx.back = call
        y, h_n, c_n, *saved = autograd.lstm_forward(
            ops, spec, True, seed, batch_sizes, not_reset, x, h0, c0, *weights
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h0, c0, *weights, seed, batch_sizes, not_reset, y, *saved)
        ctx.module, ctx.ops, ctx.spec, ctx.mean = module, ops, spec, mean
        return y, h_n, c_n

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        *inputs, seed, batch_sizes, not_reset, y, h, c, gates = ctx.saved_tensors
        # Opacus expects a mean loss's gradients times the batch size. The gradients by x and the
        # states, which go on to other modules, are divided again.
        scale = ctx.module.max_batch_len if ctx.mean else 1
        grads = [None if g is None else g * scale for g in grads]
        saved = seed, batch_sizes, not_reset, y, h, c, gates
        by_sample = together if autograd.keeps_samples(ctx.ops, ctx.spec) else one_by_one
        needs_dx = ctx.needs_input_grad[3]
        dx, dh0, dc0, *dweights = by_sample(ctx.ops, ctx.spec, needs_dx, saved, grads, inputs)
        ctx.module._keep(dweights, ctx.back)
        states = (None if d is None else d / scale for d in (dx, dh0, dc0))
        return *[None] * 3, *states, *[None] * (len(inputs) - 3)


def together(ops, spec: Spec, needs_dx: bool, saved: tuple, grads: list, inputs: list) -> tuple:
    """Return the gradients by x, h0, c0 and each weight [B, ...], from one backward."""
    samples = inputs[1].shape[1]
    return autograd.lstm_backward(ops, spec, needs_dx, saved, *grads, *inputs, samples=samples)


def one_by_one(ops, spec: Spec, needs_dx: bool, saved: tuple, grads: list, inputs: list) -> tuple:
    """Return the gradients of `together`, from one backward for each sample."""
    dx, dh0, dc0, *_ = autograd.lstm_backward(ops, spec, needs_dx, saved, *grads, *inputs)
    dy, dh_n, dc_n = grads
    B, sizes, rows = inputs[1].shape[1], saved[1], torch.arange(inputs[1].shape[1])
    if sizes is None:
        row_of = rows.expand(inputs[0].shape[:2])
    else:
        row_of = torch.cat([rows[:n] for n in sizes.tolist()])
        row_of = F.pad(row_of, (0, len(inputs[0]) - len(row_of)), value=-1)
    row_of, rows = row_of.to(inputs[0].device)[..., None], rows.to(inputs[0].device)[:, None]
    samples = []
    for n in range(B):
        of_sample = [
            None if grad is None else torch.where(of == n, grad, 0.0)
            for grad, of in ((dy, row_of), (dh_n, rows), (dc_n, rows))
        ]
        _, _, _, *dweights = autograd.lstm_backward(ops, spec, False, saved, *of_sample, *inputs)
        samples.append(dweights)
    return dx, dh0, dc0, *(torch.stack(of) for of in zip(*samples, strict=True))


def take(module: Sampled, activations: list[Tensor], backprops: Tensor) -> dict:
    """Return the gradients that the module's backward has kept, [B, ...] for each weight.

    This is Opacus's sampler. Opacus adds its result to zeros, which takes longer than computing it:
    so the first gradient of a weight is stored where the sum would be.
    """
    left, module._samples = module._samples or {}, None
    for weight in list(left):
        first = not hasattr(weight, "_current_grad_sample")
        if first and len(left[weight]) == module.max_batch_len:
            weight._current_grad_sample = left.pop(weight)
    return left


def validate(module: modules.RecurrentBase) -> list[ShouldReplaceModuleError]:
    name = type(module).__name__
    return [
        ShouldReplaceModuleError(
            f"fused_lstm.{name} has gradients by sample as fused_lstm.opacus.{name}:"
            " ModuleValidator.fix makes it one"
        )
    ]


def fix(module: modules.RecurrentBase) -> Sampled:
    module.__class__ = OF[type(module)]
    return module


OF = {modules.LSTM: LSTM, modules.GRU: GRU, modules.RNN: RNN}
for ours, sampled in OF.items():
    register_grad_sampler(sampled)(take)
    register_module_validator(ours)(validate)
    register_module_fixer(ours)(fix)
