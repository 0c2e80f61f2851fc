"""How open tracks end, with the stream or without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.datatypes import Annotation, Event, Frame
from agent.errors import SourceError
from agent.outbox import Outbox
from agent.vision.pipeline import Pipeline
from tests.fakes.pipelines import events, failures, numbers, until_ended
from tests.fakes.plugins import Camera, Counting, NoViewer, told
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


def test_open_tracks_end_at_a_stop(outbox: Outbox) -> None:
    camera, task = Camera(), Counting()
    one = Pipeline(camera, (task,), outbox, NoViewer())
    one.start()
    camera.give(1)
    wait_until(lambda: numbers(outbox) == [0], 10, "a frame")
    assert not one.ended
    one.stop()
    assert told(events(outbox), "end") == [{"reason": "stopped"}]
    assert task.closed == 1


def test_open_tracks_end_when_the_stream_is_lost_and_the_stream_comes_back(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    camera = Camera()
    run(camera, Counting())
    camera.give(1)
    wait_until(lambda: numbers(outbox) == [0], 10, "a frame")
    camera.fail(SourceError("STREAM_LOST", "the cable"))
    wait_until(lambda: told(events(outbox), "end") == [{"reason": "stream lost"}], 10, "the end")
    camera.give(1)
    wait_until(lambda: numbers(outbox) == [0, 1], 10, "a frame after the loss")
    states = [(one["state"], one["code"]) for one in told(events(outbox), "stream")]
    assert states == [("running", ""), ("failed", "STREAM_LOST"), ("running", "")]


def test_a_source_that_gives_up_ends_tracks_as_lost(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    camera = Camera()
    one = run(camera, Counting())
    camera.give(1)
    wait_until(lambda: numbers(outbox) == [0], 10, "a frame")
    camera.fail(SourceError("STREAM_NOT_FOUND", "no such file", fatal=True))
    until_ended(one)
    assert told(events(outbox), "end") == [{"reason": "stream lost"}]


def test_names_leave_the_picture_when_the_stream_is_lost_or_over(outbox: Outbox) -> None:
    class Seeing(Counting):
        def update(self, frame: Frame, prediction: int) -> list[Event]:
            self.annotations = (Annotation((0.0, 0.0, 9.0, 9.0), "Zacharias", 0.9, known=True),)
            return super().update(frame, prediction)

    camera, task, viewer = Camera(), Seeing(), NoViewer()
    one = Pipeline(camera, (task,), outbox, viewer)
    one.start()
    camera.give(1)
    wait_until(lambda: viewer.shown == [0], 10, "a frame")
    assert task.annotations
    camera.fail(SourceError("STREAM_LOST", "the cable"))
    wait_until(lambda: viewer.forgotten == 1, 10, "the name to go")
    assert task.annotations == ()
    camera.give(1)
    wait_until(lambda: viewer.shown == [0, 1], 10, "a frame after the loss")
    one.stop()
    assert viewer.forgotten == 2
    assert task.annotations == ()


def test_a_flush_that_fails_is_told_and_the_other_task_still_ends(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    class Stubborn(Counting):
        def flush(self, captured_at: float, mono_ns: int, reason: str) -> list[Any]:
            raise RuntimeError("nothing to end")

    camera = Camera()
    run(camera, Stubborn(), Counting())
    camera.give(1)
    wait_until(lambda: numbers(outbox) == [0, 0], 10, "a frame")
    camera.fail(SourceError("STREAM_LOST", "the cable"))
    wait_until(lambda: told(events(outbox), "end"), 10, "the end of the other task's tracks")
    assert ("TASK_FAILED", "RuntimeError: nothing to end") in failures(outbox)
    camera.give(1)
    wait_until(lambda: numbers(outbox) == [0, 0, 1, 1], 10, "a frame after the loss")
