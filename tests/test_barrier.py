"""The barrier's arithmetic, and the kernels' protocol around it, under schedules drawn at random.

The interpreter cannot run programs at once. Here each is a Python generator that stops before
every access to shared memory, and a scheduler that favours nobody decides who goes next.
"""

from __future__ import annotations

import random

import pytest

from fused_lstm.triton import barrier

LIMIT = 2**31


def wrap(n: int) -> int:
    """n as an int32."""
    return (n + LIMIT) % 2**32 - LIMIT


def is_before(seen: int, target: int) -> bool:
    """barrier.is_before in int32 arithmetic."""
    return wrap(seen - target) < 0


STARTS = [0, 1, LIMIT - 3, -LIMIT, -5]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("programs", [1, 2, 94, 132])
def test_a_round_is_over_with_its_last_arrival(programs, start):
    count = start
    for round in range(1, 5):
        target = barrier.ticket(programs, round, start)
        for _ in range(programs):
            assert is_before(count, target)
            count = wrap(count + 1)
        assert not is_before(count, target)
        # Others may already have arrived for the next round: still over.
        assert not is_before(wrap(count + programs - 1), target)


def test_is_before_is_what_the_kernel_computes():
    assert barrier.is_before(3, 4)
    assert not barrier.is_before(4, 4)
    assert not barrier.is_before(5, 4)


class Memory:
    """Counters, and cells that know what each must hold and in which wave it is used."""

    def __init__(self, start: int) -> None:
        self.start, self.counters, self.cells = start, {}, {}
        self.written, self.read = {}, {}  # cell -> the last wave in which someone did

    def arrive(self, name: str):
        self.counters[name] = wrap(self.counters.get(name, self.start) + 1)
        yield

    def wait(self, name: str, programs: int, round: int):
        target = barrier.ticket(programs, round, self.start)
        while is_before(self.counters.get(name, self.start), target):
            yield "waits"
        yield

    def write(self, cell, value, wave=None):
        yield
        assert wave is None or self.read.get(cell) != wave, f"{cell}: is read in this wave too"
        self.cells[cell], self.written[cell] = value, wave

    def load(self, cell, wave):
        """Read what may be multiplied by 0: any value will do, but no race, as 0 * NaN is NaN."""
        yield
        assert self.written.get(cell) != wave, f"{cell}: is written in this wave too"
        self.read[cell] = wave

    def expect(self, cell, value):
        yield
        assert self.cells.get(cell) == value, f"{cell}: has {self.cells.get(cell)}, wants {value}"


def run(programs: list, seed: int) -> None:
    """Run generators in random order; an endless wait of all is an error."""
    order, alive, idle = random.Random(seed), list(programs), 0
    while alive:
        program = order.choice(alive)
        try:
            idle = idle + 1 if next(program) == "waits" else 0
        except StopIteration:
            alive.remove(program)
            idle = 0
        assert idle < 10_000, "all wait for one another"


def forward(memory: Memory, me: int, P: int, T: int):
    """steps.lstm_steps_fwd_kernel: h(t-1) is in slot t % 2."""
    for t in range(T):
        for other in range(P):
            if t > 0:
                yield from memory.expect((t % 2, other), t - 1)
        yield from memory.write(((t + 1) % 2, me), t)
        yield from memory.arrive("all")
        if t + 1 < T:
            yield from memory.wait("all", P, t + 1)


def backward(memory: Memory, block: int, part: int, blocks: int, split: int, T: int):
    """steps.lstm_steps_bwd_kernel: dgates(t) is in slot t % 2, partial sums in one place."""
    for step, t in enumerate(reversed(range(T))):
        if t < T - 1:
            for other in range(blocks * split):
                yield from memory.expect(((t + 1) % 2, other), t + 1)
        yield from memory.write(("partial", block, part), t)
        yield from memory.arrive(f"block {block}")
        yield from memory.wait(f"block {block}", split, step + 1)
        for other in range(split):
            yield from memory.expect(("partial", block, other), t)
        yield from memory.write((t % 2, block * split + part), t)
        yield from memory.arrive("all")
        if step + 1 < T:
            yield from memory.wait("all", blocks * split, step + 1)


def wavefront(memory: Memory, layer: int, me: int, L: int, P: int, T: int):
    """layers.lstm_layers_fwd_kernel: slots as in `forward`, a layer one step behind the other.

    The loads are the kernel's: of every wave, and layer 0's too, whose w_ih is zero.
    """
    for wave in range(T + L - 1):
        t = wave - layer
        now, after = (layer, t % 2), (layer, (t + 1) % 2)
        below = (layer - 1, (t + 1) % 2) if layer > 0 else now
        for other in range(P):
            yield from memory.load((*now, other), wave)
            yield from memory.load((*below, other), wave)
            if 0 < t < T:
                yield from memory.expect((*now, other), t - 1)
            if 0 <= t < T and layer > 0:
                yield from memory.expect((*below, other), t)
        if 0 <= t < T:
            yield from memory.write((*after, me), t, wave)
        yield from memory.arrive("all")
        if wave + 1 < T + L - 1:
            yield from memory.wait("all", L * P, wave + 1)


def wavefront_back(memory: Memory, layer: int, me: int, L: int, P: int, T: int):
    """layers.lstm_layers_bwd_kernel with one part a block; the top layer's w_ih is zero."""
    for wave in range(T + L - 1):
        t = T - 1 - (wave - (L - 1 - layer))
        now, after = (layer, t % 2), (layer, (t + 1) % 2)
        above = (layer + 1, t % 2) if layer < L - 1 else after
        for other in range(P):
            yield from memory.load((*above, other), wave)
            yield from memory.load((*after, other), wave)
            if 0 <= t < T - 1:
                yield from memory.expect((*after, other), t + 1)
            if 0 <= t < T and layer < L - 1:
                yield from memory.expect((*above, other), t)
        if 0 <= t < T:
            yield from memory.write((*now, me), t, wave)
        yield from memory.arrive("all")
        if wave + 1 < T + L - 1:
            yield from memory.wait("all", L * P, wave + 1)


@pytest.mark.parametrize("start", [0, LIMIT - 7], ids=["from 0", "wrapping"])
@pytest.mark.parametrize("seed", range(10))
def test_nobody_reads_a_slot_too_early_or_too_late(start, seed):
    P, T, L = 3, 5, 3
    memory = Memory(start)
    run([forward(memory, p, P, T) for p in range(P)], seed)
    memory = Memory(start)
    run([backward(memory, b, s, 2, 2, T) for b in range(2) for s in range(2)], seed)
    memory = Memory(start)
    run([wavefront(memory, l, p, L, 2, T) for l in range(L) for p in range(2)], seed)
    memory = Memory(start)
    run([wavefront_back(memory, l, p, L, 2, T) for l in range(L) for p in range(2)], seed)


def test_the_model_finds_a_missing_barrier(monkeypatch):
    def pass_at_once(self, name, programs, round):
        yield

    monkeypatch.setattr(Memory, "wait", pass_at_once)
    memory = Memory(0)
    with pytest.raises(AssertionError, match="wants"):
        run([forward(memory, p, 3, 5) for p in range(3)], seed=1)


def test_the_model_finds_a_deadlock():
    memory = Memory(0)
    with pytest.raises(AssertionError, match="wait for one another"):
        run([forward(memory, p, 3, 5) for p in range(2)], seed=0)  # the third does not fit
