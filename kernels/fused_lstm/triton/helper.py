"""`@helper` marks a function that kernels call; kernels themselves are `@triton.jit`."""

from __future__ import annotations

from collections.abc import Callable

import triton

from .interpreter import is_interpreted, version

# Disables loop-invariant code motion for a time loop. Triton 3.6 builds each wgmma descriptor with
# an addition, and would move all of them out, into more registers than there are. Later ones build
# none, and what they move out makes their loops shorter: see launch.fewest_spills.
KEEP_LOOP = version(triton) < (3, 9)

# Whether wgmma waits for what cp.async has copied to shared memory, by a fence between the two.
# Triton 3.6 puts it only after stores from registers.
FENCES_COPIES = version(triton) >= (3, 9)


# Whether AMD's kernels may have buffer operations. Triton 3.6's pass that puts them in ends the
# process at a loop that waits for other programs.
TAKES_BUFFERS = version(triton) >= (3, 9)


def helper(function: Callable):
    """Return a function for kernels to call: `triton.jit`, without the interpreter's cost per call.

    The interpreter prepares triton.language for the kernel, and again at each call of another
    jitted function, which takes it a millisecond. Its rewritten function does not need this.
    """
    made = triton.jit(function)
    return made.rewrite() if is_interpreted() else made
