"""Machine code of AMD's GPUs, as Triton's compiler prints it: the order that the barrier needs."""

from __future__ import annotations

import re

from ..triton.devices import stores_done

# A barrier's arrive is the one atomic whose old value nobody reads.
ARRIVE = re.compile(r"global_atomic_add(_u32)? (?!.*(glc|sc0|TH_ATOMIC_RETURN))")
STORE = re.compile(r"(global|flat|buffer)_store_|(global|flat|buffer)_atomic_")
MEET = re.compile(r"s_barrier(_signal.*)?$")  # of a program's waves
BRANCH = re.compile(r"s_c?branch|s_setpc|s_endpgm")
LABEL = re.compile(r"\.LBB|; %bb")


def lines(text: str) -> list[str]:
    """Return instructions and the labels between them."""
    every = (line.strip() for line in text.splitlines())
    return [line for line in every if LABEL.match(line) or re.match(r"[a-z]", line)]


def order(text: str, gfx: str) -> list[str]:
    """Return what is wrong before the arrives of a kernel; nothing where it has the right order.

    A release publishes the stores of its own wave. So each wave waits for its own before the
    program's waves meet: between a store and the meeting is a wait, on every way there.
    """
    code, problems = lines(text), []
    arrives = [n for n, line in enumerate(code) if ARRIVE.match(line)]
    for arrive in arrives:
        meets = [n for n in range(arrive) if MEET.match(code[n])]
        if not meets:
            problems.append(f"{code[arrive]}: the program's waves do not meet before it")
            continue
        for line in reversed(code[: meets[-1]]):
            if line == stores_done(gfx):
                break
            if STORE.match(line) or BRANCH.match(line) or LABEL.match(line):
                problems.append(f"{code[arrive]}: waves meet before it with stores on their way")
                break
    return problems if arrives else ["no program arrives"]
