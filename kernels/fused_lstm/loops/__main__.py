"""Show what each level of fusion gains for a recurrent step of your own.

    python -m fused_lstm.loops my_step.py:build
    python -m fused_lstm.loops my_module:build --threads 1 --seconds 20 --inference

`build` takes nothing and returns a step, x of all steps [T, B, ...] and a state, as fused_lstm.fuse
and the layer that it makes take them.
"""

from __future__ import annotations

import sys

from ..compare import Refused, built, parser_of, set_threads
from .ladder import climbed, table


def main(arguments: list[str] | None = None) -> int:
    """Show the ladder of the step that the command line names; return 1 where that fails."""
    parser = parser_of("loops", __doc__ or "")
    parser.add_argument("--inference", action="store_true", help="the forward alone")
    options = parser.parse_args(arguments)
    set_threads(parser, options)
    try:
        step, x, state = built(options.target, "a step, x and a state")
        rungs, text = climbed(step, x, state, options.seconds, not options.inference)
    except (Refused, ValueError) as error:
        print(f"fused_lstm.loops: {error}", file=sys.stderr)
        return 1
    print(f"{text}\n\n{table(rungs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
