"""Measurements of what each fusion is worth on this machine: suites, a ladder and a report."""
