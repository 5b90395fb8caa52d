"""A barrier across all programs of a launch: `arrive` after the last store, `wait` before a load.

The counter is one int32 in global memory, zeroed on the stream by the launcher (a memset that a
CUDA graph captures like any other) and never reset by a kernel. Each program adds one to it at
every round, so round r (from 1) is complete once it has reached `programs * r`.

Why no counter that several launches share: two streams, or a graph replayed beside eager code,
would count into one another. With one counter a launch, reuse needs no argument at all; the ticket
arithmetic below would allow it, and tests/kernels/triton/test_barrier.py also tests it from a
start other than 0.

Why it is correct, in the terms of the PTX memory model (PTX ISA, chapter "Memory consistency
model"). Let W be a store of h by thread a of program P in round r, and R the load of the same
element by thread b of program Q after its wait for round r.

1. `arrive`: bar.sync orders W before what thread 0 of P does next (synchronizes at CTA scope).
   Thread 0's atomic add has .release semantics at .gpu scope; a release is cumulative, so W
   happens before anything that synchronizes with this add.
2. All adds of a launch are atomic read-modify-writes of one address. A read that sees the value of
   a later add comes after every earlier add in observation order, through the chain of RMWs.
   So a thread that reads a value >= programs * r has observed all adds of round r.
3. `wait`: thread 0 of Q reads with ld.acquire.gpu until that is so. The acquire synchronizes with
   all those releases, and bar.sync orders it before what any thread of Q does next, hence W happens
   before thread b's R: happens-before is transitive through both scopes. None of Q's caches can
   serve R with an older line: on hardware ld.acquire.gpu discards the L1 of the SM, which all of
   Q's threads share. Loads of exchanged data carry .cg besides, which does not read L1, but where
   a streamed product copies 8 bytes at a time to shared memory PTX has only .ca: there the acquire
   alone makes it right. One thread polls, not 128 or 256: the counter is in one place of L2, and
   a poll delays an add.
4. Write after read: an element is stored again at the earliest one round later, by a program that
   has waited for a round in which the reader arrived after its loads (they feed the values it
   stored before arriving; bar.sync in `arrive` covers the program's other threads).

On AMD's GPUs there is no PTX: a program adds 0 to the counter, with acquire semantics, until the
round is complete; on NVIDIA's a poll that adds would hold up programs that arrive. Points 2 to 4
are the same there. Point 1 is not: waves that met at s_barrier may have stores on their way, and a
release of one wave waits for its own stores alone (LLVM's pull request 160501). So each wave waits
for its own before s_barrier (`devices.stores_done`), and the release writes L2 back where dies have
an L2 each. ROCm's own grid barrier fences in every thread.

Where FUSED_LSTM_POLLS is set to a number before the first call, a program traps after so many
polls: on a GPU a launch that hangs ends with an error that names the kernel.

It can only end if all programs run at once: launches that wait are cooperative, so that CUDA
refuses a grid that does not fit instead of letting it hang. The interpreter runs one program after
another: there a launch covers one step and never waits.
"""

from __future__ import annotations

import triton.language as tl

from .helper import helper

# int32 from one counter to the next: each has a cache line of 128 bytes, so that an addition to one
# does not delay a read of another.
APART = tl.constexpr(32)

# Thread 0 reads a counter until it is not before a target; the others go on at once. By difference,
# so that 2**31 wraps harmlessly.
SPIN = tl.constexpr(
    """
    {
        .reg .pred waits;
        .reg .b32 seen;
        mov.u32 seen, %tid.x;
        setp.ne.u32 waits, seen, 0;
        @waits bra DONE;
        AGAIN:
        ld.acquire.gpu.global.s32 seen, [$1];
        sub.s32 seen, seen, $2;
        setp.lt.s32 waits, seen, 0;
        @waits bra AGAIN;
        DONE:
        mov.u32 $0, 0;
    }
    """
)


# The same, with a trap after $3 polls: a launch that would hang ends with an error.
SPIN_AND_TRAP = tl.constexpr(
    SPIN.value.replace("seen;", "seen, left;")
    .replace("AGAIN:", "mov.u32 left, $3;\n        AGAIN:")
    .replace(
        "@waits bra AGAIN;",
        """@!waits bra DONE;
        sub.u32 left, left, 1;
        setp.ne.u32 waits, left, 0;
        @waits bra AGAIN;
        trap;""",
    )
)


@helper
def arrive(
    counter_ptr,  # [1] int32
    PERSISTENT: tl.constexpr,  # whether there is anyone to meet in this launch
    PLAN: tl.constexpr,  # STORES_DONE: an AMD wave's wait for its own stores, else ""
):
    """Publish this program's stores and say that it is done with the round.

    The program's warps meet even where it has nobody to wait for: scans rest on that.
    """
    if PERSISTENT and PLAN.STORES_DONE != "":
        tl.inline_asm_elementwise(
            PLAN.STORES_DONE + "\nv_mov_b32 $0, $1", "=v,v,~{memory}", [tl.full((), 0, tl.int32)],
            tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    tl.debug_barrier()
    if PERSISTENT:
        tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@helper
def wait(
    counter_ptr,  # [1] int32
    target,  # programs * round, wrapped to int32
    PERSISTENT: tl.constexpr,
    PLAN: tl.constexpr,  # POLLS: after so many the launch traps; 0: it waits for ever
):
    """Wait until all programs have arrived; their stores are visible afterwards."""
    if PERSISTENT:
        if PLAN.NVIDIA and PLAN.POLLS > 0:
            polls = tl.full((), PLAN.POLLS, tl.int32)
            tl.inline_asm_elementwise(
                SPIN_AND_TRAP, "=r,l,r,r,~{memory}", [counter_ptr, target, polls], tl.int32,
                is_pure=False, pack=1,
            )  # fmt: skip
        elif PLAN.NVIDIA:
            tl.inline_asm_elementwise(
                SPIN, "=r,l,r,~{memory}", [counter_ptr, target], tl.int32, is_pure=False, pack=1
            )
        else:
            seen = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
            while seen - target < 0:
                seen = tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
        tl.debug_barrier()
