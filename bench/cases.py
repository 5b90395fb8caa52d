"""What the suite's cases share: refuse, replay, and say what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from . import peers
from .check import WrongAnswer
from .contenders import Contender
from .session import Group, Session, replay
from .work import Shape


def measure(
    benchmark: Any,
    session: Session,
    contender: Contender,
    fellows: Sequence[Contender],
    shape: Shape,
    mode: str,
    about: dict[str, Any],
    counted: bool = True,
) -> None:
    """One case of the LSTM alone; `about` joins its extra_info."""
    group = session.lstm(shape, mode, fellows, counted)
    about = about | {"mode": mode, "shape": shape._asdict()}
    finish(benchmark, session, group, contender, about, shape.tokens)
    facts = session.product_facts(group, contender.label, shape, mode)
    benchmark.extra_info.update(facts)


def finish(
    benchmark: Any,
    session: Session,
    group: Group,
    contender: Contender,
    about: dict[str, Any],
    tokens: int,
) -> None:
    """Fail where the answer was wrong, else hand the rounds to pytest-benchmark."""
    label = contender.label
    if (failure := group.failed.get(label)) is not None:
        if isinstance(failure, WrongAnswer):
            pytest.fail(f"refused: {failure}", pytrace=False)
        raise failure
    replay(benchmark, group.samples[label])
    benchmark.extra_info.update(
        {
            "label": label,
            "engine": contender.engine,
            "fuse": contender.fuse,
            "stock": contender.stock,
            "peer": peers.PEERS[label].says if contender.peer else None,
            "device": str(session.device),
            "dtype": str(session.dtype).removeprefix("torch."),
            **about,
            **session.facts(group, label, tokens),
        }
    )
