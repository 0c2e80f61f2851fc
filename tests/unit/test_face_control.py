"""What the control API asks about faces: at once where no model is needed, and by the streams' own rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from agent.datatypes import Frame, Image
from agent.outbox import Outbox
from agent.serving import Problem
from agent.settings import Settings, load
from agent.vision import face_control, face_kit
from agent.vision.face_control import FaceControl
from agent.vision.face_kit import FaceKit, open_gallery
from agent.vision.gallery import Picture
from agent.vision.pictures import PictureError, decode
from agent.vision.tasks.faces import FacesConfig, FacesTask
from agent.vision.tasks.faces_config import DETECTOR, EMBEDDER
from engines.card import card
from engines.results import Detections, Embeddings
from tests.waiting import wait_until

pytestmark = pytest.mark.unit

MODEL = card(EMBEDDER).model_id
PHOTOGRAPH = bytes(cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8))[1].tobytes())


class OneFace:
    """A detector that finds one face of `side` pixels with `score`."""

    card = card(DETECTOR)
    engine = SimpleNamespace(parallel=1)

    def __init__(self) -> None:
        self.side, self.score = 120.0, 0.9
        self.asked: list[float] = []

    def detect(self, image: Image, threshold: float, still: bool = False) -> Detections:
        self.asked.append(threshold)
        count = int(self.score >= threshold)
        box = np.array([[100, 100, 100 + self.side, 100 + self.side]], np.float32)[:count]
        marks = 100 + self.side * np.array([[[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.7], [0.65, 0.7]]], np.float32)[:count]
        return Detections(box, np.full(count, self.score, np.float32), marks)

    def close(self) -> None:
        """Nothing to free."""


class OneTemplate:
    """An embedder for which every chip shows the same."""

    model_id = MODEL
    card = card(EMBEDDER)

    def chip(self, image: Image, landmarks: np.ndarray[Any, Any]) -> Image:
        return np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)

    def embed(self, chips: np.ndarray[Any, Any]) -> Embeddings:
        return Embeddings(np.zeros((len(chips), 128), np.float32), self.model_id)

    def close(self) -> None:
        """Nothing to free."""


class Site:
    """A device whose models take until `ready` to load."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.detector = OneFace()
        self.ready = threading.Event()
        self.ready.set()
        self.loads = 0
        self.folder = folder
        monkeypatch.setattr(face_kit, "_load", self._load)
        self.settings = self.with_task()

    def with_task(self, **changes: Any) -> Settings:
        stream = {"name": "door", "source": {"type": "folder", "path": str(self.folder)}, "tasks": [{"type": "faces", **changes}]}
        path = self.folder / "almena.yaml"
        path.write_text(yaml.safe_dump({"state_dir": str(self.folder / "state"), "streams": [stream]}))
        self.settings = load(path)
        return self.settings

    def _load(self, settings: Settings, detector: str, embedder: str, key: Any, progress: Any) -> FaceKit:
        assert self.ready.wait(60)
        self.loads += 1
        return FaceKit(self.detector, OneTemplate(), open_gallery(settings), key)  # type: ignore[arg-type]

    def enrol(self, name: str, distance: float) -> None:
        """Somebody so far from the template of every chip."""
        vector = np.zeros(128, np.float32)
        vector[len(name)] = distance
        with closing(open_gallery(self.settings)) as gallery:
            gallery.add(name, [Picture(None, vector)])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.fixture
def outbox(site: Site) -> Iterator[Outbox]:
    with Outbox.open(site.settings.outbox_dir, "dev", site.settings.outbox) as outbox:
        yield outbox


def answer(site: Site, outbox: Outbox) -> dict[str, Any]:
    with closing(FaceControl(site.settings, outbox)) as faces:
        [found] = faces.recognise(PHOTOGRAPH)
    return found


def test_while_models_are_loaded_people_are_shown_and_pictures_refused(site: Site, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_control, "PATIENCE_S", 0.05)
    site.enrol("Ada", 0.1)
    site.ready.clear()
    with closing(FaceControl(site.settings, outbox)) as faces:
        try:
            started = time.monotonic()
            for ask in (lambda: faces.recognise(PHOTOGRAPH), lambda: faces.add_image("p-0", PHOTOGRAPH)):
                with pytest.raises(Problem, match="try again soon") as caught:
                    ask()
                assert (caught.value.status_code, caught.value.title) == (503, "Models are being loaded")
            assert [one["name"] for one in faces.identities()] == ["Ada"]
            assert faces.clusters() == []
            bert = faces.create("Bert", "", None)
            assert faces.change(bert["id"], {"name": "Bertha"})["name"] == "Bertha"
            faces.erase(bert["id"])
            assert time.monotonic() - started < 50
            assert site.loads == 0
        finally:
            site.ready.set()
        wait_until(lambda: face_kit.open_kits() != [], 5, "the models")
        assert faces.recognise(PHOTOGRAPH)[0]["name"] == "Ada"


def test_a_kit_that_is_there_is_not_waited_for_while_another_is_loaded(site: Site) -> None:
    other = Settings.model_validate({"state_dir": site.folder / "other"})
    with closing(FaceKit.open(site.settings)) as kit:
        site.ready.clear()
        with ThreadPoolExecutor(2) as pool:
            loading = pool.submit(FaceKit.open, other)
            try:
                with closing(pool.submit(FaceKit.open, site.settings).result(60)) as again:
                    assert again is kit
                assert not loading.done()
            finally:
                site.ready.set()
            loading.result(60).close()


def test_many_callers_at_once_load_once_and_give_everything_back(site: Site, outbox: Outbox) -> None:
    site.ready.clear()
    faces = FaceControl(site.settings, outbox)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(faces.recognise, PHOTOGRAPH) for _ in range(8)]
        site.ready.set()
        assert {len(one.result(60)) for one in asked} == {1}
    assert site.loads == 1
    faces.close()
    assert FaceKit.opened(site.settings) is None


def test_closing_does_not_wait_for_models_and_gives_them_back_when_they_are_there(
    site: Site, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_control, "PATIENCE_S", 0.05)
    site.ready.clear()
    faces = FaceControl(site.settings, outbox)
    try:
        with pytest.raises(Problem, match="try again soon"):
            faces.recognise(PHOTOGRAPH)
        faces.close()
        assert site.loads == 0, "they are still being loaded"
    finally:
        site.ready.set()
    faces._loader.shutdown()
    assert (site.loads, FaceKit.opened(site.settings)) == (1, None)


def test_a_photograph_is_decided_by_the_rules_of_the_stream(site: Site, outbox: Outbox) -> None:
    assert answer(site, outbox)["decision"] == "unknown"
    site.enrol("Ada", 0.30)
    known = answer(site, outbox)
    assert (known["decision"], known["name"], known["identity"] is None) == ("known", "Ada", False)
    site.enrol("Bertha", 0.31)
    near = answer(site, outbox)
    assert (near["decision"], near["name"], near["identity"]) == ("undecided", None, None)
    assert near["second_best"] == pytest.approx(0.31)


@pytest.mark.parametrize(("distance", "decision"), [(0.30, "known"), (0.50, "known"), (0.60, "unknown")])
def test_a_photograph_gets_one_answer_whichever_way_it_comes(site: Site, outbox: Outbox, distance: float, decision: str) -> None:
    site.enrol("Ada", distance)
    site.with_task(identify=0.53)
    asked = answer(site, outbox)
    assert asked["decision"] == decision
    with closing(FacesTask(FacesConfig(identify=0.53), "door", site.settings)) as task:
        frame = Frame(decode(PHOTOGRAPH), "door", 0, 1.0, 1, item="a")
        [event] = task.update(frame, task.infer(frame))
    told = ("decision", "identity", "name", "distance", "threshold", "second_best")
    assert [event.data[field] for field in told] == [pytest.approx(asked[field], abs=1e-4) for field in told]


def test_a_photograph_is_decided_with_the_settings_of_the_stream(site: Site, outbox: Outbox) -> None:
    site.enrol("Ada", 0.30)
    site.with_task(identify=0.2)
    strict = answer(site, outbox)
    assert (strict["decision"], strict["threshold"]) == ("unknown", 0.2)
    site.with_task(min_face=200)
    assert (answer(site, outbox)["decision"], answer(site, outbox)["distance"]) == ("undecided", None)
    site.with_task()
    site.detector.side = 20
    assert answer(site, outbox)["decision"] == "undecided"


def test_a_low_score_reaches_the_detector(site: Site, outbox: Outbox) -> None:
    site.with_task(score=0.1)
    site.detector.score = 0.12
    assert answer(site, outbox)["box"]["probability"] == pytest.approx(0.12)
    image = np.zeros((400, 400, 3), np.uint8)
    with closing(FacesTask(FacesConfig(score=0.1), "door", site.settings)) as task:
        live = task.infer(Frame(image, "door", 0, 1.0, 1))
        assert site.detector.asked[-1] == pytest.approx(0.06)
        assert live.embedded == (0,)
        still = task.infer(Frame(image, "door", 0, 1.0, 1, item="a"))
        assert site.detector.asked[-1] == pytest.approx(0.1)
        assert len(still.faces) == 1


def test_large_photographs_are_decoded_one_after_another(tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    inside, together = [0], threading.Event()

    def decode(_: bytes) -> Any:
        inside[0] += 1
        at_once.append(inside[0])
        if inside[0] > 1:
            together.set()
        together.wait(0.05)
        inside[0] -= 1
        raise PictureError("not today")

    monkeypatch.setattr(face_control, "decode", decode)
    control = FaceControl(Settings(state_dir=tmp_path), outbox)
    with ThreadPoolExecutor(4) as callers:
        answers = [callers.submit(control.recognise, b"") for _ in range(4)]
    control.close()
    assert [str(one.exception()) for one in answers] == ["not today"] * 4
    assert at_once == [1, 1, 1, 1]
