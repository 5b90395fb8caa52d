"""Nothing here runs unless `--benchmark-only` is asked for: plain `pytest` times nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave bench/ out of a run of the tests."""
    return (
        True if HERE in collection_path.parents and not config.getoption("benchmark_only") else None
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests out of a run of the benchmark, where they are not even skipped one by one."""
    if config.getoption("benchmark_only"):
        config.hook.pytest_deselected(items=[i for i in items if HERE not in i.path.parents])
        items[:] = [i for i in items if HERE in i.path.parents]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Leave out the host's name, which is nobody's business."""
    machine_info.pop("node", None)
