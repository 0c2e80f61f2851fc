"""Sources that run, and are stopped whatever becomes of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agent.vision.base import Source
from agent.vision.running_source import RunningSource

Started = tuple[RunningSource, list[tuple[str, str]]]
"""A source, and the states and codes that it has said so far."""
Start = Callable[..., Started]


@contextmanager
def running_sources(**defaults: Any) -> Iterator[Start]:
    """What starts a source with some settings of RunningSource."""
    started: list[RunningSource] = []

    def start(source: Source, **settings: Any) -> Started:
        heard: list[tuple[str, str]] = []
        started.append(RunningSource(source, lambda health: heard.append((health.state, health.code)), **{**defaults, **settings}))
        started[-1].start()
        return started[-1], heard

    try:
        yield start
    finally:
        for one in started:
            one.stop()
