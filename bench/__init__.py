"""What each fusion is worth on this machine: a pytest-benchmark suite, a ladder and a report."""
