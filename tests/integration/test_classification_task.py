"""The task `classification` with a real engine: life of an answer, photographs, and the terrain of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from agent import wire
from agent.datatypes import Event, Frame
from agent.outbox import Outbox
from agent.sentences import sentence
from agent.settings import OutboxSettings, Settings
from agent.vision.classifier_kit import ClassifierKit
from agent.vision.inference.models import Serving
from agent.vision.interrupted import end_interrupted
from agent.vision.pipeline import Pipeline
from agent.vision.sources.folder import FolderSource
from agent.vision.tasks.classification import ClassificationConfig, ClassificationTask
from tests.fakes.mapped_model import terrain, terrain_card
from tests.fakes.plugins import NoViewer, told
from tests.fakes.small_model import small_card
from tests.waiting import wait_until

RATE = 10.0
Tasks = Callable[..., ClassificationTask]


def settings(folder: Path) -> Settings:
    return Settings.model_validate({"state_dir": folder / "state", "engines": {"backend": "onnxruntime", "precision": "fp32"}})


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    """What opens the task for pictures that are dark (0) or bright (255)."""
    opened: list[ClassificationTask] = []
    card = small_card(tmp_path)

    def task(**changes: Any) -> ClassificationTask:
        config = ClassificationConfig.model_validate({"model": str(card), **changes})
        opened.append(ClassificationTask(config, "door", settings(tmp_path)))
        return opened[-1]

    yield task
    for one in opened:
        one.close()


def play(task: ClassificationTask, shades: list[int], start: float = 0.0) -> list[Event]:
    """Frames at ten a second, each of one shade of grey."""
    events: list[Event] = []
    for index, shade in enumerate(shades):
        at = start + index / RATE
        frame = Frame(np.full((48, 64, 3), shade, np.uint8), "door", index, 1.8e9 + at, int(at * 1e9))
        events += task.update(frame, task.infer(frame))
    return events


def life(events: list[Event]) -> list[tuple[str, str, str | None]]:
    for event in events:
        jsonschema.validate(dict(event.data), wire.DATA[event.kind].model_json_schema())
    return [(event.data["type"], event.data["label"], event.data["reason"]) for event in events]


def test_an_answer_is_told_when_it_held_and_ends_when_another_one_does(tasks: Tasks) -> None:
    task = tasks(hold_s=1.0)
    assert play(task, [255] * 10) == []
    assert task.annotations == ()
    first = play(task, [255] * 10, start=1.0)
    assert life(first) == [("new", "bright", None)]
    assert (first[0].data["started_at"], first[0].data["frames"], first[0].data["positive"]) == (1.8e9, 11, True)
    assert [(one.label, one.known) for one in task.annotations] == [("bright", True)]
    second = play(task, [0] * 20, start=2.0)
    assert life(second) == [("end", "bright", "changed"), ("new", "dark", None)]
    assert second[0].data["track"] == first[0].data["track"] != second[1].data["track"]
    assert second[0].data["ended_at"] == 1.8e9 + 1.9
    assert second[1].data["started_at"] == 1.8e9 + 2.0
    assert second[1].data["probabilities"] == {"dark": 1.0, "bright": 0.0}
    assert life(task.flush(1.8e9 + 5, 5, "stopped")) == [("end", "dark", "stopped")]
    assert task.flush(1.8e9 + 6, 6, "stopped") == []


def test_an_answer_that_flickers_is_not_told(tasks: Tasks) -> None:
    task = tasks(hold_s=0.5)
    assert life(play(task, [255] * 6)) == [("new", "bright", None)]
    assert play(task, [0, 0, 255, 0, 0, 0, 0, 255, 0, 255] * 3, start=0.6) == []


def test_the_margin_keeps_an_answer_that_is_barely_beaten(tasks: Tasks) -> None:
    """A mean of 127 has a logit of -1: bright has 0.27, dark 0.73."""
    barely, wide = tasks(hold_s=0.0, margin=0.05), tasks(hold_s=0.0, margin=0.49)
    assert life(play(barely, [255, 127])) == [("new", "bright", None), ("end", "bright", "changed"), ("new", "dark", None)]
    assert life(play(wide, [255, 127])) == [("new", "bright", None)]
    low = tasks(hold_s=0.0, threshold=0.2)
    assert life(play(low, [127])) == [("new", "bright", None)]


def test_it_goes_on_to_be_told_and_ends_when_nothing_can_be_classified(tasks: Tasks) -> None:
    task = tasks(hold_s=0.0, update_s=1.0)
    assert [kind for kind, _, _ in life(play(task, [0] * 25))] == ["new", "update", "update"]
    lost = Frame(np.zeros((48, 64, 3), np.uint8), "door", 99, 1.8e9 + 4, int(4e9))
    assert task.missed(lost) == []
    late = Frame(lost.image, "door", 99, 1.8e9 + 8, int(8e9))
    assert life(task.missed(late)) == [("end", "dark", "stream lost")]
    assert task.missed(late) == []


def test_every_photograph_is_one_event_and_a_repeat_adds_nothing(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(6):
        cv2.imwrite(str(photographs / f"{number}.png"), terrain(damaged=number % 2 == 0, seed=number))
    ours = settings(tmp_path)
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        for _ in range(2):
            task = ClassificationTask(ClassificationConfig(model=str(terrain_card(tmp_path))), "field", ours)
            config = FolderSource.Config(path=photographs, watch=False, settle_s=0, after="keep")
            pipeline = Pipeline(FolderSource(config, "field"), (task,), outbox, NoViewer())
            pipeline.start()
            wait_until(lambda one=pipeline: one.ended, 60, "the folder's end")  # type: ignore[misc]
            pipeline.stop()
        envelopes = outbox.history(after_seq=0, limit=100, kind="classification")
    found = told(envelopes, "classification")
    assert [(one["label"], one["positive"]) for one in found] == [("damaged", True), ("intact", False)] * 3
    assert {(one["type"], one["frames"], one["reason"]) for one in found} == {("end", 1, None)}
    assert sentence(envelopes[0]).endswith("field: a photograph shows damaged (score 1.00)")


def test_an_answer_that_a_crash_left_open_is_ended_at_the_next_start(tasks: Tasks, tmp_path: Path) -> None:
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        outbox.append("event", play(tasks(hold_s=0.0), [255, 0]))
        assert end_interrupted(outbox, {}) == 1
        last = outbox.history(after_seq=0, limit=10)[-1]["data"]
    assert (last["type"], last["label"], last["reason"]) == ("end", "dark", "interrupted")
    jsonschema.validate(last, wire.DATA["classification"].model_json_schema())


def test_streams_share_an_engine_and_it_is_served(tasks: Tasks, tmp_path: Path) -> None:
    first, second = tasks(), tasks(threshold=0.7)
    assert first.engines() == second.engines()
    card = str(tmp_path / "brightness.yaml")
    stream = {"name": "door", "source": FolderSource.Config(path=tmp_path), "tasks": (ClassificationConfig(model=card),)}
    ours = settings(tmp_path).model_copy(update={"streams": Settings.model_validate({"streams": [stream]}).streams})
    with closing(Serving(ours)) as serving:
        serving.start()
        wait_until(lambda: serving.ready, 20, "the model to be served")
        first.close()
        second.close()
        with closing(ClassifierKit.open(ours, card)) as kit:
            assert kit.engines() == first.engines(), "the engine stays while it is served"
