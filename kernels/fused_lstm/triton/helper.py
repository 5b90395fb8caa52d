"""`@helper` marks what kernels call; kernels themselves are `@triton.jit`."""

from __future__ import annotations

from collections.abc import Callable

import triton

from .interpreter import is_interpreted


def helper(function: Callable):
    """A function for kernels to call: `triton.jit`, without the interpreter's toll at each call.

    The interpreter prepares triton.language for the kernel, and again at each call of another
    jitted function, which takes it a millisecond. Its rewritten function can do without.
    """
    made = triton.jit(function)
    return made.rewrite() if is_interpreted() else made
