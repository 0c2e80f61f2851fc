"""Source `dicom` and task `study` with a real engine: answers, abstentions, heat maps, and that no radiograph is lost or told twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from agent import wire
from agent.errors import SettingsError
from agent.outbox import Outbox
from agent.settings import load
from agent.studies import StudyFolders, StudyInstance
from agent.vision.study_control import StudyControl
from agent.vision.tasks.study import StudyConfig, StudyTask
from engines.errors import ModelFileError
from tests.fakes.mapped_model import CHEST, save_model, write_card
from tests.fakes.plugins import told
from tests.fakes.radiographs import damage, result
from tests.fakes.study_stream import SIDE, chest_card, image, put, running, settings
from tests.waiting import wait_until
from training.ood import fitted, limited, write


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return chest_card(tmp_path)


@pytest.fixture
def folders(tmp_path: Path) -> StudyFolders:
    return StudyFolders(tmp_path / "state")


def studies(outbox: Outbox) -> dict[str, dict[str, Any]]:
    """By item; each must be there once."""
    found = told(outbox.history(after_seq=0, limit=10_000, kind="study"), "study")
    assert len({one["item"] for one in found}) == len(found)
    return {one["item"]: one for one in found}


@pytest.fixture
def analysed(tmp_path: Path, card: Path, folders: StudyFolders) -> Iterator[Any]:
    """What puts pictures into a running stream and gives the events, in their order."""
    with running(tmp_path / "state", card) as (_, outbox):

        def analyse(*pictures: tuple[np.ndarray[Any, Any], dict[str, Any]]) -> list[dict[str, Any]]:
            items = [put(folders, f"1.2.{number}.{random.random()}", pixels, **about) for number, (pixels, about) in enumerate(pictures)]
            wait_until(lambda: set(items) <= studies(outbox).keys(), 60, "the studies")
            return [studies(outbox)[item] for item in items]

        yield analyse


def test_it_answers_by_the_operating_point_and_says_how_long_each_step_took(analysed: Any, folders: StudyFolders) -> None:
    about = {"modality": "DX", "view": "PA", "queue_s": 0.001, "decode_s": 0.002, "codec_s": 0.001}
    bright, dark, middle = analysed((image(250), about), (image(5), about), (image(128), about))
    for event in (bright, dark, middle):
        jsonschema.validate(event, wire.DATA["study"].model_json_schema())
        assert (event["abstained"], event["reason"], event["modality"], event["view"]) == (None, None, "DX", "PA")
        assert event["timings"].keys() == {"queue", "decode", "codec", "preprocess", "infer", "explain", "publish"}
        assert event["timings"]["decode"] == 0.002
        assert not folders.pictures.holds(event["item"])
        assert folders.shown.holds(event["item"])
    assert [event["decision"] for event in (bright, dark, middle)] == ["covid", "normal", "pneumonia"]
    result = folders.result(bright["item"])
    assert (result.model.split("@")[0], result.decision, result.positive) == ("chest", "covid", "covid")
    assert result.threshold == bright["threshold"] == 0.5
    assert result.findings[1] == "The score of covid is 1.000; from 0.500 on that is the answer."
    assert "no probability" in result.findings[2]


def test_it_says_nothing_where_tags_or_scores_forbid_it(analysed: Any, folders: StudyFolders) -> None:
    lateral, close = analysed((image(250), {"note": "view LL is not frontal", "view": "LL"}), (image(166), {}))
    assert (lateral["decision"], lateral["abstained"], lateral["scores"], lateral["heat_map"]) == (None, "tags", {}, False)
    assert "view LL is not frontal" in lateral["reason"]
    assert (close["decision"], close["abstained"], close["heat_map"]) == (None, "margin", False)
    assert close["scores"]["covid"] == pytest.approx(0.5, abs=0.05)
    for event in (lateral, close):
        result = folders.result(event["item"])
        assert (result.decision, result.findings, result.heat_map) == ("", (), None)
        assert result.abstained == event["reason"]


def test_a_picture_that_is_no_radiograph_gets_no_answer(tmp_path: Path, card: Path, folders: StudyFolders) -> None:
    with running(tmp_path / "state", card, pixels=True) as (_, outbox):
        item = put(folders, "1.2.3", image(250))
        event = wait_until(lambda: studies(outbox).get(item), 60, "the study")
    assert (event["decision"], event["abstained"], event["scores"]) == (None, "pixels", {})
    assert event["reason"] == "no frontal chest radiograph by its pixels: it is all of one shade"


def test_the_heat_map_is_hot_where_the_answer_was_seen(analysed: Any, folders: StudyFolders) -> None:
    pixels = image(170, rows=300, columns=200)
    pixels[30:90, 120:180] = 255
    (event,) = analysed((pixels, {}))
    assert event["decision"] == "covid"
    data = folders.result(event["item"]).heat_map
    assert data is not None
    heat = cv2.resize(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), (200, 300))
    assert heat[50:64, 135:165].mean() > 240
    assert heat[150:].mean() < 180
    assert folders.picture(event["item"]).image.shape == (300, 200)


def spotted(down: int, across: int) -> np.ndarray[Any, Any]:
    """Bright but for the rest, with a white square."""
    pixels = image(170, 320, 320)
    pixels[down : down + 80, across : across + 80] = 255
    return pixels


def test_an_opaque_model_is_explained_by_covering_parts_and_knows_what_it_has_learned_from(tmp_path: Path, folders: StudyFolders) -> None:
    model = save_model(tmp_path / "opaque.onnx", SIDE, (40.0, -40.0, 0.0), (-26.0, 14.0, 0.0), features=True)
    learned = np.stack([spotted(down, across) for down in range(0, 241, 20) for across in range(0, 241, 20)])
    cells = learned.reshape(-1, 8, 40, 8, 40).mean((2, 4)).reshape(len(learned), -1).astype(np.float32) / 255
    kinds = np.zeros(len(cells), np.int64)
    found = fitted(cells, kinds)
    about = write(limited(found, found.distances(cells), kinds, refused=0.0), tmp_path / "opaque.npz", "spots")
    card = write_card(model, CHEST, SIDE, 0.5, about, features="pooled")
    with running(tmp_path / "state", card, margin=0, heat_map_s=30) as (_, outbox):
        items = [put(folders, name, pixels) for name, pixels in (("1", spotted(40, 200)), ("2", image(250, 320, 320)))]
        wait_until(lambda: set(items) <= studies(outbox).keys(), 60, "the studies")
        answered, strange = (studies(outbox)[item] for item in items)
    assert (answered["decision"], answered["explained"], answered["abstained"]) == ("covid", "occlusion", None)
    result = folders.result(answered["item"])
    assert result.findings[-1].startswith("The heat map shows where covering the picture with grey squares lowered the score")
    heat = cv2.resize(cv2.imdecode(np.frombuffer(result.heat_map or b"", np.uint8), cv2.IMREAD_UNCHANGED), (320, 320))
    assert heat[60:100, 220:260].mean() > 200
    assert heat[160:].mean() < 20
    assert (strange["abstained"], strange["scores"], strange["explained"]) == ("unfamiliar", {}, None)
    assert strange["reason"].startswith("it is unlike what the model has learned from")


def test_an_explanation_that_takes_too_long_is_left_out_and_said(tmp_path: Path, folders: StudyFolders) -> None:
    card = write_card(save_model(tmp_path / "opaque.onnx", SIDE, (40.0, -40.0, 0.0), (-26.0, 14.0, 0.0)), CHEST, SIDE, 0.5)
    with running(tmp_path / "state", card, heat_map_s=1e-6) as (_, outbox):
        item = put(folders, "1", image(250))
        wait_until(lambda: item in studies(outbox), 60, "the study")
        assert (studies(outbox)[item]["decision"], studies(outbox)[item]["heat_map"]) == ("covid", False)
    assert folders.result(item).findings[-1] == "No heat map was made."


def test_a_bad_picture_fails_with_its_reason_and_the_next_is_analysed(analysed: Any, folders: StudyFolders) -> None:
    bad = folders.item("bad")
    folders.pictures.write(bad, {}, b"", at=0.0, durable=False)
    (folders.pictures.path / bad).write_bytes(b"damaged")
    (event,) = analysed((image(250), {}))
    assert event["decision"] == "covid"
    wait_until(lambda: bool(folders.failures()), 10, "the failure")
    assert [(one.item, one.reason) for one in folders.failures()] == [(bad, "analysis")]
    assert not folders.pictures.holds(bad)


def test_a_damaged_result_has_its_row_beside_the_others(tmp_path: Path, folders: StudyFolders) -> None:
    good, bad = folders.item("1.2.3"), folders.item("1.2.4")
    for item in (good, bad):
        folders.write_result(result(item))
    damage(folders.results, bad)
    rows = {row["item"]: row for row in StudyControl(settings(tmp_path / "state")).recent()}
    assert (rows[good]["failure"], rows[bad]["failure"]) == (None, "storage")
    assert rows[bad]["abstained"] == "what was stored of its result is damaged"


def test_what_came_to_nothing_is_told_once_for_each_time_that_it_came(tmp_path: Path, card: Path, folders: StudyFolders) -> None:
    item, worklist = folders.item("1.2.3"), StudyControl(settings(tmp_path / "state"))
    state = tmp_path / "state"

    def failures(outbox: Outbox) -> list[dict[str, Any]]:
        return told(outbox.history(after_seq=0, limit=100, kind="study"), "study")

    folders.write_instance(StudyInstance(item, b"x", 1000.0, 1))
    folders.fail(item, "no-pixels", "it has no pixel data")
    waiting = [(path, path.read_bytes()) for path in folders.reports.path.iterdir()]
    assert len(waiting) == 1
    for _ in range(2):  # the second time as if the process had been killed between the event and its mark
        for path, report in waiting:
            path.write_bytes(report)
        with running(state, card) as (_, outbox):
            wait_until(lambda: not folders.reports.items(), 60, "the report to be told")
            (event,) = failures(outbox)
    jsonschema.validate(event, wire.DATA["study"].model_json_schema())
    assert (event["item"], event["abstained"], event["failure"], event["decision"]) == (item, "unusable", "no-pixels", None)
    assert (event["reason"], event["scores"], event["timings"]) == ("it has no pixel data", {}, {})
    (row,) = worklist.recent()
    assert (row["item"], row["failure"], row["abstained"], row["picture"]) == (item, "no-pixels", "it has no pixel data", False)

    folders.write_instance(StudyInstance(item, b"y", 2000.0, 2))  # it comes again, and fails again
    folders.reopen(item)
    assert worklist.recent() == []
    folders.fail(item, "truncated", "it ends early")
    with running(state, card) as (_, outbox):
        wait_until(lambda: len(failures(outbox)) == 2, 60, "the second failure")
        assert failures(outbox)[1]["failure"] == "truncated"
    assert [row["failure"] for row in worklist.recent()] == ["truncated"]


def test_while_results_cannot_be_written_radiographs_wait(tmp_path: Path, card: Path, folders: StudyFolders) -> None:
    with running(tmp_path / "state", card) as (pipeline, outbox):
        wait_until(lambda: pipeline.health().state == "running", 30, "the folders to be open")
        away = folders.results.path.rename(tmp_path / "away")
        item = put(folders, "1.2.3", image(250))
        wait_until(lambda: pipeline.health().code == "TASK_FAILED", 30, "the trouble to be told")
        assert folders.pictures.holds(item)
        assert studies(outbox) == {}
        away.rename(folders.results.path)
        wait_until(lambda: item in studies(outbox), 30, "the study")
        wait_until(lambda: folders.shown.holds(item), 10, "the picture to be done")
        assert folders.failures() == []


def test_no_kill_loses_a_radiograph_or_tells_it_twice(tmp_path: Path, card: Path, folders: StudyFolders) -> None:
    items: set[str] = set()
    chance = random.Random(5)
    command = [sys.executable, "-m", "tests.fakes.study_stream", str(tmp_path / "state"), str(card)]
    for kill in range(4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"running\n"
            items |= {put(folders, f"{kill}.{number}", image(250, 600, 500)) for number in range(12)}
            wanted = 12 * kill + chance.randrange(1, 11)
            wait_until(lambda done=wanted: len(folders.shown.items()) >= done, 60, "some to be done")  # type: ignore[misc]
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    with running(tmp_path / "state", card) as (_, outbox):
        wait_until(lambda: not folders.pictures.items(), 60, "the rest to be done")
        wait_until(lambda: studies(outbox).keys() == items, 30, "the last events")
    assert set(folders.results.items()) == set(folders.shown.items()) == items


def test_a_card_without_an_operating_point_is_refused(tmp_path: Path) -> None:
    bare = write_card(save_model(tmp_path / "bare.onnx", SIDE, (1, 2, 3), (0, 0, 0)), CHEST, SIDE, 0.5)
    bare.write_text(bare.read_text().replace("positive: covid\n", ""))
    with pytest.raises(ModelFileError, match="positive"):
        StudyTask(StudyConfig(model=str(bare)), "xray", settings(tmp_path / "state"))


def test_only_one_stream_takes_radiographs_and_it_does_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "almena.yaml"
    one = "- {name: NAME, source: {type: dicom}, tasks: [{type: study}]}"
    texts = {
        "dicom: {}\nstreams: [{name: a, source: {type: dicom}, tasks: [{type: faces}]}]": "dicom goes only with study, not with faces",
        "dicom: {}\nstreams: [{name: a, source: {type: folder, path: .}, tasks: [{type: study}]}]": "study goes only with dicom",
        "dicom: {}\nstreams: [{name: a, source: {type: dicom}, tasks: [{type: study}, {type: study}]}]": "stands alone",
        f"streams:\n  {one}": "no section `dicom`",
        f"dicom: {{}}\nstreams:\n  {one.replace('NAME', 'a')}\n  {one.replace('NAME', 'b')}": "only one stream",
    }
    for text, message in texts.items():
        path.write_text(text.replace("NAME", "x"))
        with pytest.raises(SettingsError, match=message):
            load(path)
    path.write_text(f"dicom: {{}}\nstreams:\n  {one.replace('NAME', 'x')}")
    assert load(path).streams[0].tasks[0].type == "study"
