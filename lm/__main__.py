"""`python -m lm` lists the verbs; `python -m lm VERB ...` is `python -m lm.VERB ...`."""

import runpy
import sys

VERBS = {
    "train": "train a language model, or go on with a run",
    "evaluate": "perplexity of a text under a trained model",
    "generate": "text from a trained model",
    "export": "a trained model for plain PyTorch, or in the Hugging Face hub's layout",
    "plot": "perplexity of one or several runs against words and wall time",
    "data": "what a text holds",
}


def main() -> None:
    """Run a verb, or list them."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        print(__doc__, *(f"    {verb:9} {about}" for verb, about in VERBS.items()), sep="\n")
        sys.exit(0 if sys.argv[1:2] in ([], ["--help"], ["-h"]) else 2)
    verb = sys.argv.pop(1)
    sys.argv[0] = verb  # what an error names
    runpy.run_module(f"lm.{verb}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
