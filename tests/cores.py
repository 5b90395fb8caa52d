"""How many processes a test may have at work: `make test` runs a process of tests a core."""

import os


def own() -> int:
    """This process's share of the cores, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
