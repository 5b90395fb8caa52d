"""A training step of the language model: what every contender is handed, and who learns it here.

In this process there are two programs: the post's, in stock PyTorch, and this project's, its loss
and its update around any engine.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fused_lstm
from lm.model import LM_LSTM, repackage_hidden
from lm.optimizer import Optimizer
from lm.settings import PRESETS, Config

from .cases import CASES, Case, Shape
from .contenders import Contender, entered
from .core import Call, Work, rounded
from .peers.remote import Remote

Hidden = tuple[Tensor, Tensor]
VOCABULARY = 10_000  # Penn Treebank's
BATCHES = 8
CHECKED = 3  # steps whose losses and whose updates are compared
FEW = 10  # words of the last checked batch
PEERS_MODES = "train", "rest"  # a step, and one without its LSTM


@dataclass(frozen=True, eq=False)
class Lesson:
    """`weights` is LM_LSTM's state_dict; `inputs` and `targets` are int64 [BATCHES, T, B].

    What is differentiated is T times the mean loss over words. An answer is the losses of the first
    CHECKED steps, and what they changed in every weight, under the names of `weights` without
    "lstm.". `autocast` is the dtype of the products, None the weights'.
    """

    shape: Shape
    settings: Config
    weights: dict[str, Tensor]
    inputs: Tensor
    targets: Tensor
    autocast: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """Return where the tensors lie."""
        return self.inputs.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        return self.weights["sm_fc.weight"].dtype

    @property
    def vocabulary(self) -> int:
        """Return V."""
        return len(self.weights["sm_fc.bias"])

    @property
    def state(self) -> Hidden:
        """Return h, c before the first step: zeros [L, B, H]."""
        _, B, _, H, L = self.shape
        h, c = torch.zeros(2, L, B, H, device=self.device, dtype=self.dtype)
        return h, c

    def named(self) -> dict[str, Tensor]:
        """Return what a peer is handed."""
        h0, c0 = self.state
        weights = {name.removeprefix("lstm."): w for name, w in self.weights.items()}
        s = self.settings
        numbers = {"keep_prob": s.keep_prob, "rate": s.learning_rate, "clip": s.max_grad_norm}
        numbers |= {"scale": float(self.shape.T), "checked": CHECKED}
        tensors = {"h0": h0, "c0": c0, "inputs": self.inputs, "targets": self.targets}
        return weights | {name: torch.tensor(value) for name, value in numbers.items()} | tensors

    def expected(self) -> dict[str, Tensor]:
        """Return what the post's program in float64, with nn.LSTM, computes, as float32."""
        wide = {name: w.double() for name, w in self.weights.items()}
        reference = Contender("reference", "cudnn", stock=True)
        exact = dataclasses.replace(self, weights=wide, autocast=None)
        answer = learner(reference, exact).answer()
        return {name: value.float() for name, value in answer.items()}


def make_lesson(
    name: str, device: torch.device | str = "cpu", autocast: torch.dtype | None = None
) -> Lesson:
    """Return the preset `name` on words drawn at random: speed does not depend on what they say.

    The last of the batches that are checked has FEW words, so that its gradient is clipped, which
    others at the start are not.
    """
    shape, settings = CASES[name].shape, PRESETS[name]
    T, B, _, H, L = shape
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (BATCHES, T + 1, B), generator=generator)
    ids[CHECKED - 1] %= FEW
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LM_LSTM(H, T, B, VOCABULARY, L, settings.keep_prob, lstm="cudnn")
        for parameter in model.parameters():  # Zaremba's start: biases too
            nn.init.uniform_(parameter, -settings.init_scale, settings.init_scale)
    weights = {name: w.detach().to(device) for name, w in model.state_dict().items()}
    inputs, targets = (t.contiguous().to(device) for t in (ids[:, :-1], ids[:, 1:]))
    return Lesson(shape, settings, weights, inputs, targets, autocast)


# --- the two programs ---


class Program(nn.Module):
    """The post's LM_LSTM around `lstm`, as its reader would write it today."""

    def __init__(self, lesson: Lesson, lstm: nn.Module) -> None:
        super().__init__()
        size = lesson.shape.H
        self.word_embeddings = nn.Embedding(lesson.vocabulary, size)
        self.dropout = nn.Dropout(1 - lesson.settings.keep_prob)
        self.lstm = lstm
        self.sm_fc = nn.Linear(size, lesson.vocabulary)

    def forward(self, inputs: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Map inputs [T, B] to logits [T, B, V] and the next state."""
        outputs, hidden = self.lstm(self.dropout(self.word_embeddings(inputs)), hidden)
        return self.sm_fc(self.dropout(outputs)), hidden

    def loss(self, inputs: Tensor, targets: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Return the mean loss over words and the next state."""
        logits, hidden = self(inputs, hidden)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), hidden


def learner(contender: Contender, lesson: Lesson) -> Call:
    """Return a contender's call: a step of learning a lesson, the state carried on.

    A stock contender runs the post's program: F.cross_entropy, clip_grad_norm_, torch.optim.SGD.
    Others run LM_LSTM and lm.train's step of it: our loss and our update around any engine. The
    facts of a record are its LSTM's seconds inside each step.
    """
    settings, dropout = lesson.settings, 1 - lesson.settings.keep_prob
    engine, fuse, (T, B, I, H, L) = contender.engine, contender.fuse, lesson.shape
    model: Any
    if not contender.stock:
        model = LM_LSTM(H, T, B, lesson.vocabulary, L, settings.keep_prob, engine, fuse)
    elif engine == "cudnn":
        model = Program(lesson, nn.LSTM(I, H, L, dropout=dropout))
    else:
        lstm = fused_lstm.LSTM(I, H, L, dropout=dropout, engine=engine, fuse=fuse)
        model = Program(lesson, lstm)
    model = model.to(lesson.device, lesson.dtype)
    model.load_state_dict(lesson.weights)
    ours = None if contender.stock else Optimizer(model, settings)
    sgd: Any = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    sgd = sgd if ours is None else ours.base
    inside, count, hidden = Inside(model.lstm, lesson.device), itertools.count(), lesson.state

    def step() -> Tensor:
        nonlocal hidden
        at = next(count) % BATCHES
        sgd.zero_grad()
        on = lesson.autocast is not None
        with torch.autocast(lesson.device.type, lesson.autocast, enabled=on):
            state = repackage_hidden(hidden)
            loss, hidden = model.loss(lesson.inputs[at], lesson.targets[at], state)
        if ours is None:
            (loss * T).backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            sgd.step()
        else:
            loss.backward()
            ours.step(T)
        return loss.detach()

    def answer() -> dict[str, Tensor]:
        model.eval()  # without dropout, whose masks differ
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        losses = torch.stack([step() for _ in range(CHECKED)])
        after = dict(model.named_parameters())
        model.train()
        return {"losses": losses} | {
            f"update of {name.removeprefix('lstm.')}": after[name].detach() - start
            for name, start in before.items()
        }

    def facts(mode: str, rounds: int) -> dict[str, Any]:
        return {"lstm_seconds": rounded(inside.seconds()[-rounds:])}

    return Call({"train": step}, answer, under=full_float32, facts=facts, device=lesson.device)


class Inside:
    """Times a module inside a step: from its input to its output, and from the gradient of the one
    to that of the other."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[list] = []  # of a step: forward begins, ends, backward begins, ends
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _before(self, module: nn.Module, inputs: tuple) -> None:
        step: list = []
        self.marks.append(step)
        if inputs[0].requires_grad:  # its gradient is there when the module's backward is over
            inputs[0].register_hook(lambda _: step.append(self._mark()))
        step.append(self._mark())

    def _after(self, module: nn.Module, inputs: tuple, outputs: tuple) -> None:
        step = self.marks[-1]
        step.append(self._mark())
        if outputs[0].requires_grad:
            outputs[0].register_hook(lambda _: step.append(self._mark()))

    def seconds(self) -> list[float]:
        """Return, of every whole step, forward and backward together."""
        steps = [step for step in self.marks if len(step) == 4]
        if not self.cuda:
            return [b - a + d - c for a, b, c, d in steps]
        torch.cuda.synchronize()
        return [(a.elapsed_time(b) + c.elapsed_time(d)) / 1000 for a, b, c, d in steps]


@contextmanager
def full_float32() -> Iterator[None]:
    """Have float32 kept on a GPU too, where cuDNN rounds to TF32: losses then agree."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    # A context manager, since torch.testing forbids to set cudnn's switches in any other way; None
    # leaves a switch as it is.
    others = {"enabled": None, "benchmark": None, "benchmark_limit": None, "deterministic": None}
    with torch.backends.cudnn.flags(**others, allow_tf32=False, fp32_precision=None):
        try:
            matmul.allow_tf32 = False
            yield
        finally:
            matmul.allow_tf32 = before


def onednn_has_bfloat16() -> bool:
    """Return whether nn.LSTM runs under bfloat16's autocast on this CPU, where it else fails."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def setup(case: Case, o: Any) -> Work:
    """Return whole training steps of a preset: under autocast in another dtype than float32."""
    able, absent = entered(o.contenders(), o, case.name, "float32")
    autocast = None if o.dtype == torch.float32 else o.dtype
    lesson = make_lesson(case.name, o.device, autocast)

    def make(contender: Contender) -> Call:
        if not contender.peer:
            return learner(contender, lesson)
        with full_float32():
            return Remote(contender.engine, lesson.named(), lesson.device).call(PEERS_MODES)

    few = [c for c in able if autocast is None or not (c.peer or c.engine == "loop")]
    if autocast == torch.bfloat16 and o.device.type == "cpu" and not onednn_has_bfloat16():
        torchs = [c for c in few if c.engine == "cudnn" and c.stock]
        why = "under autocast it needs oneDNN's bfloat16, which this CPU does not have"
        absent |= {c.label: why for c in torchs}
        few = [c for c in few if c not in torchs]
    facts = {"shape": lesson.shape._asdict(), "tokens": lesson.shape.tokens}
    calls = {c.label: partial(make, c) for c in few}
    return Work(calls, lesson.expected, facts, absent, autocast)
