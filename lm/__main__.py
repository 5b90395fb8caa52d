"""`python -m lm` lists the verbs; `python -m lm VERB ...` is `python -m lm.VERB ...`."""

import runpy
import sys

VERBS = {
    "train": "train a language model, or go on with a run",
    "evaluate": "perplexity of a text under a trained model",
    "generate": "text from a trained model",
    "export": "a trained model for plain PyTorch, or in the Hugging Face hub's layout",
    "plot": "perplexity of one or several runs against words and wall time",
}


def main() -> None:
    """Run a verb, or list them."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("--help", "-h"):
        print(__doc__, *(f"    {verb:9} {about}" for verb, about in VERBS.items()), sep="\n")
        return
    if verb not in VERBS:
        print(f"lm: got {verb!r}; expected one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [verb]
    runpy.run_module(f"lm.{verb}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
