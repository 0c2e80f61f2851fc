"""Pipelines with real threads and a real outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.outbox import Outbox
from agent.settings import OutboxSettings
from agent.vision.base import Source, Task
from agent.vision.pipeline import Pipeline
from tests.fakes.plugins import NoViewer


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        yield outbox


@pytest.fixture
def run(outbox: Outbox) -> Iterator[Callable[..., Pipeline]]:
    running: list[Pipeline] = []

    def start(source: Source, *tasks: Task, viewer: NoViewer | None = None) -> Pipeline:
        one = Pipeline(source, tasks, outbox, viewer or NoViewer())
        one.start()
        running.append(one)
        return one

    yield start
    for one in running:
        one.stop()
