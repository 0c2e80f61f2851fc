"""One stream from source to outbox, with real threads and a real outbox."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.datatypes import Event, Frame
from agent.errors import AlmenaError
from agent.outbox import Outbox, OutboxError, OutboxFullError
from agent.vision import pipeline as pipeline_module
from agent.vision.pipeline import Pipeline
from tests.fakes.pipelines import events, failures, numbers, until_ended
from tests.fakes.plugins import Camera, Counting, Items, NoViewer, told
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


def test_order_is_kept_though_workers_overtake_each_other(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    late = [threading.Event() for _ in range(40)]

    def overtake(frame: Frame) -> None:
        """Even frames wait for the odd ones that come after them."""
        if frame.index % 2:
            late[frame.index - 1].set()
        else:
            assert late[frame.index].wait(60)

    task, source = Counting(4, overtake), Items(40)
    until_ended(run(source, task))
    assert task.updated == numbers(outbox) == list(range(40))
    assert task.most_at_once > 1
    assert source.marks == {str(index): "done" for index in range(40)}


def test_finite_source_loses_none_and_ends_with_left(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    viewer = NoViewer()
    one = run(Items(300), Counting(2), viewer=viewer)
    until_ended(one)
    assert numbers(outbox) == viewer.shown == list(range(300))
    assert told(events(outbox), "end") == [{"reason": "left"}]
    health, figures = one.health(), one.metrics()
    assert (health.state, health.captured, health.processed, health.skipped, health.failed) == ("finished", 300, 300, 0, 0)
    assert (figures["frames_total"], figures["frames_failed_total"], figures["counted_total"]) == (300, 0, 300)
    assert figures["active_seconds"] > 0
    assert {f"{stage}_p50_seconds" for stage in ("decode", "infer", "update", "publish", "total")} <= set(figures)


def test_pictures_of_patients_are_not_offered_to_viewers_without_a_login(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    class Radiographs(Items):
        def read(self) -> Frame | None:
            frame = super().read()
            return frame and replace(frame, about=object())

    viewer = NoViewer()
    until_ended(run(Radiographs(3), Counting(1), viewer=viewer))
    assert (numbers(outbox), viewer.shown) == ([0, 1, 2], [])


def test_live_source_skips_counts_and_takes_the_newest(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    camera, go_on, asked = Camera(), threading.Event(), threading.Event()

    def hold(frame: Frame) -> None:
        asked.set()
        assert go_on.wait(60)

    one = run(camera, Counting(1, hold))
    camera.give(1)
    assert asked.wait(60)
    camera.give(50)
    wait_until(lambda: one.health().captured == 51, 10, "the frames to be read")
    go_on.set()
    wait_until(lambda: 50 in numbers(outbox), 10, "the newest frame")
    wait_until(lambda: (health := one.health()).processed + health.skipped == 51, 10, "every frame to be accounted for")
    assert one.health().skipped >= 45
    assert numbers(outbox) == sorted(numbers(outbox))
    assert len(numbers(outbox)) == one.health().processed


def test_failing_frames_are_counted_told_once_and_told_when_it_works_again(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    def trouble(frame: Frame) -> None:
        tiny = frame.image.shape[0] < 100
        if tiny and (3 <= frame.index < 6 or frame.index < 0):
            raise AlmenaError("the engine gave nothing")

    source, task = Items(10), Counting(1, trouble)
    one = run(source, task)
    until_ended(one)
    assert task.updated == numbers(outbox) == [0, 1, 2, 6, 7, 8, 9]
    assert failures(outbox) == [("TASK_FAILED", "the engine gave nothing"), ("", "frames are processed again")]
    assert [source.marks[str(index)] for index in range(10)] == ["done"] * 3 + ["the engine gave nothing"] * 3 + ["done"] * 4
    assert (one.metrics()["frames_failed_total"], one.health().failed) == (3, 3)


class Panic(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize("where", ["infer", "update", "flush"])
def test_what_is_no_exception_is_told_and_the_stream_goes_on(where: str, run: Callable[..., Pipeline], outbox: Outbox) -> None:
    class Panicking(Counting):
        def infer(self, frame: Frame) -> int:
            if where == "infer" and frame.index == 1:
                raise Panic("boom")
            return super().infer(frame)

        def update(self, frame: Frame, prediction: int) -> list[Event]:
            if where == "update" and frame.index == 1:
                raise Panic("boom")
            return super().update(frame, prediction)

        def flush(self, captured_at: float, mono_ns: int, reason: str) -> list[Event]:
            if where == "flush":
                raise Panic("boom")
            return super().flush(captured_at, mono_ns, reason)

    source = Items(3)
    one = run(source, Panicking(2))
    until_ended(one)
    assert numbers(outbox) == ([0, 1, 2] if where == "flush" else [0, 2])
    assert failures(outbox)[0] == ("TASK_FAILED", "Panic: boom")
    assert source.marks["1"] == ("done" if where == "flush" else "Panic: boom")


def test_a_failing_engine_is_no_healthy_stream(run: Callable[..., Pipeline]) -> None:
    def trouble(frame: Frame) -> None:
        if frame.index < 5:
            raise AlmenaError("out of memory")

    camera = Camera()
    one = run(camera, Counting(1, trouble))
    camera.give(1)
    wait_until(lambda: one.health().state == "failed", 10, "the failure to show")
    health = one.health()
    assert (health.code, health.detail, health.quality, health.failed) == ("TASK_FAILED", "out of memory", "unusable", 1)
    camera.give(20)
    wait_until(lambda: one.health().state == "running", 10, "the stream to be well again")
    assert one.health().code == ""


def test_what_a_task_has_open_ends_though_the_engine_fails_for_good(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    class Following(Counting):
        def missed(self, frame: Frame) -> list[Event]:
            return self.flush(frame.captured_at, frame.mono_ns, "not seen") if frame.index == 3 else []

    def trouble(frame: Frame) -> None:
        if frame.index:
            raise AlmenaError("out of memory")

    camera, viewer = Camera(), NoViewer()
    one = run(camera, Following(1, trouble), viewer=viewer)
    for number in range(1, 6):
        camera.give(1)
        wait_until(lambda number=number: one.metrics().get("frames_total") == number, 10, "the frame")  # type: ignore[misc]
    assert told(events(outbox), "end") == [{"reason": "not seen"}]
    assert (viewer.shown, viewer.forgotten) == ([0], 1)


def test_what_a_task_cannot_do_shows_for_as_long_as_it_lasts(run: Callable[..., Pipeline], outbox: Outbox) -> None:
    camera, task = Camera(), Counting()
    one = run(camera, task)
    for number, impaired in enumerate(("", "the disk is full", "the disk is full", "")):
        task.impaired = impaired
        camera.give(1)
        wait_until(lambda number=number: one.metrics().get("frames_total") == number + 1, 10, "the frame")  # type: ignore[misc]
        health = one.health()
        assert (health.state, health.code, health.detail) == ("running", "TASK_IMPAIRED" if impaired else "", impaired)
    assert failures(outbox) == [("TASK_IMPAIRED", "the disk is full"), ("", "nothing is impaired any more")]


def test_items_wait_while_the_engine_fails_whatever_it_is_given(
    run: Callable[..., Pipeline], outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "RETRY_S", 0.05)
    broken = threading.Event()
    broken.set()

    def trouble(frame: Frame) -> None:
        if broken.is_set():
            raise AlmenaError("out of memory")

    source = Items(4)
    one = run(source, Counting(1, trouble))
    wait_until(lambda: one.health().state == "failed", 10, "the failure to show")
    assert (source.marks, numbers(outbox)) == ({}, [])
    broken.clear()
    until_ended(one)
    assert source.marks == {str(index): "done" for index in range(4)}
    assert numbers(outbox) == [0, 1, 2, 3]


def test_an_item_that_waits_is_neither_done_nor_failed_at_a_stop(run: Callable[..., Pipeline]) -> None:
    def trouble(frame: Frame) -> None:
        raise AlmenaError("out of memory")

    source = Items(4)
    one = run(source, Counting(1, trouble))
    wait_until(lambda: one.health().state == "failed", 10, "the failure to show")
    one.stop()
    assert source.marks == {}


def test_unexpected_errors_of_a_task_are_told_with_their_type(
    run: Callable[..., Pipeline], outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Counting):
        def update(self, frame: Frame, prediction: int) -> list[Any]:
            if frame.index == 1:
                raise ZeroDivisionError("by hand")
            return super().update(frame, prediction)

    source = Items(3)
    until_ended(run(source, Broken()))
    assert failures(outbox)[0] == ("TASK_FAILED", "ZeroDivisionError: by hand")
    assert source.marks == {"0": "done", "1": "ZeroDivisionError: by hand", "2": "done"}
    assert "Traceback" in caplog.text


def test_an_item_is_done_only_after_its_events_are_committed(
    run: Callable[..., Pipeline], outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    append = outbox.append

    class Noted(Items):
        def done(self, item: str) -> None:
            order.append(f"done {item}")

    def noted(lane: str, batch: Any, **options: Any) -> list[int]:
        result = append(lane, batch, **options)
        order.extend(f"stored {one.data['n']}" for one in batch if one.kind == "count")
        return result

    monkeypatch.setattr(outbox, "append", noted)
    until_ended(run(Noted(5), Counting(2)))
    for what in ("stored", "done"):
        assert [text for text in order if text.startswith(what)] == [f"{what} {index}" for index in range(5)]
    assert all(order.index(f"stored {index}") < order.index(f"done {index}") for index in range(5))


def test_items_that_are_ready_share_a_commit_and_one_that_fails_does_not_hold_it_up(
    run: Callable[..., Pipeline], outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[list[int]] = []
    append, begun = outbox.append, threading.Event()

    class Slow(Counting):
        def infer(self, frame: Frame) -> int:
            if frame.index == 3:
                begun.set()  # its only worker is past the items before
            return super().infer(frame)

        def update(self, frame: Frame, prediction: int) -> list[Event]:
            if frame.index == 0:
                assert begun.wait(60)
            if frame.index == 2:
                raise AlmenaError("by hand")
            return super().update(frame, prediction)

    def noted(lane: str, batch: Any, **options: Any) -> list[int]:
        commits.append([one.data["n"] for one in batch if one.kind == "count"])
        return append(lane, batch, **options)

    monkeypatch.setattr(outbox, "append", noted)
    source = Items(5)
    until_ended(run(source, Slow(1)))
    assert [0, 1] in commits
    assert numbers(outbox) == [0, 1, 3, 4]
    told_in_order = [one["data"].get("n", one["data"].get("code")) for one in events(outbox) if one["kind"] in ("count", "stream")]
    assert told_in_order.index(1) < told_in_order.index("TASK_FAILED") < told_in_order.index(3)
    assert source.marks == {"0": "done", "1": "done", "2": "by hand", "3": "done", "4": "done"}


def test_items_wait_for_a_full_disk_and_nothing_is_declared_lost(
    run: Callable[..., Pipeline], outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "RETRY_S", 0.01)
    store = outbox._stores[0]
    write_once, full, refused = store._write_once, threading.Event(), 0

    def write(work: Any) -> Any:
        nonlocal refused
        if full.is_set() and refused < 7:
            refused += 1
            raise OSError(28, "No space left on device")
        return write_once(work)

    monkeypatch.setattr(store, "_write_once", write)
    source = Items(30)
    until_ended(run(source, Counting(trouble=lambda frame: full.set())))
    assert refused == 7
    assert numbers(outbox) == list(range(30))
    assert set(source.marks.values()) == {"done"}
    assert outbox.stats()["event"]["lost"] == 0


def test_live_goes_on_while_the_outbox_refuses(run: Callable[..., Pipeline], outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    camera, viewer, append = Camera(), NoViewer(), outbox.append

    def refuse(*_: Any, **__: Any) -> list[int]:
        raise OutboxFullError("the disk is full")

    one = run(camera, Counting(), viewer=viewer)
    monkeypatch.setattr(outbox, "append", refuse)
    camera.give(1)
    wait_until(lambda: viewer.shown == [0], 10, "the first frame")
    camera.give(1)
    wait_until(lambda: viewer.shown == [0, 1], 10, "the second frame")
    assert one.health().state == "running"
    monkeypatch.setattr(outbox, "append", append)
    camera.give(1)
    wait_until(lambda: numbers(outbox) == [2], 10, "the third frame")
    assert one.metrics()["frames_failed_total"] == 0


def test_a_stop_does_not_wait_for_the_disk_and_leaves_the_item_undone(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def refuse(*_: Any, **__: Any) -> list[int]:
        asked.set()
        raise OutboxError("no disk")

    monkeypatch.setattr(outbox, "append", refuse)
    source = Items(3)
    one = Pipeline(source, (Counting(),), outbox, NoViewer())
    one.start()
    assert asked.wait(60)
    wait_until(lambda: one.health().captured == 3, 10, "the items to be read")
    one.stop()
    assert source.marks == {}
