"""A word-level LSTM language model that runs on any engine of `fused_lstm`.

    python -m lm.train       train it, or go on with a run
    python -m lm.evaluate    perplexity of a text under a trained model
    python -m lm.generate    text from a trained model
    python -m lm.export      a trained model for plain PyTorch, or in the Hugging Face hub's layout
    python -m lm.plot        perplexity of runs by the words they have read

Each has --help.
"""

if __name__ == "__main__":
    print(__doc__, end="")
