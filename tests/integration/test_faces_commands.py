"""Identity enrolment and the commands `identity` and `eval`, with the real models and the two public-domain portraits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from agent.cli import app
from agent.datatypes import Image
from agent.outbox import Outbox
from agent.settings import Settings, load
from agent.vision.enrolment import EnrolmentError
from agent.vision.face_kit import FaceKit
from agent.vision.pictures import PictureError, decode


@pytest.fixture
def config(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Path:
    engines_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "engines").symlink_to(engines_dir)
    path = tmp_path / "almena.yaml"
    path.write_text(yaml.safe_dump({"state_dir": "state", "engines": {"models_dir": str(models_dir)}}))
    return path


@pytest.fixture
def settings(config: Path) -> Settings:
    return load(config)


@pytest.fixture
def kit(settings: Settings) -> Iterator[FaceKit]:
    with closing(FaceKit.open(settings)) as kit:
        yield kit


@pytest.fixture(scope="session")
def hopper(portraits: dict[str, Path]) -> Image:
    image = cv2.imread(str(portraits["grace-hopper"]))
    assert image is not None
    return np.asarray(image, np.uint8)


def png(image: Image) -> bytes:
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["identity", *arguments, "--config", str(config)])


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_pictures_that_would_do_harm_are_refused_with_the_reason(kit: FaceKit, hopper: Image) -> None:
    face = hopper[40:360, 90:420]
    small = np.full((360, 640, 3), 90, np.uint8)
    small[100:170, 100:172] = cv2.resize(face, (72, 70), interpolation=cv2.INTER_AREA)
    unfit = {
        "not-a-picture": b"GIF89a",
        "no-face": png(np.full((300, 300, 3), 127, np.uint8)),
        "several-faces": png(np.hstack([face, face])),
        "too-small": png(small),
        "blurred": png(np.asarray(cv2.GaussianBlur(face, (0, 0), 7), np.uint8)),
    }
    with pytest.raises(EnrolmentError) as caught:
        kit.enrolment.enrol("Grace", list(unfit.values()))
    assert [refusal.reason for refusal in caught.value.refused] == list(unfit)
    assert kit.gallery.identities() == []
    report = kit.enrolment.enrol("Grace", [*unfit.values(), png(face)])
    assert (report.accepted, [refusal.index for refusal in report.refused]) == (1, [0, 1, 2, 3, 4])


def test_a_person_who_is_already_enrolled_is_pointed_out(kit: FaceKit, hopper: Image) -> None:
    kit.enrolment.enrol("Grace", [png(hopper)])
    report = kit.enrolment.enrol("Somebody", [png(np.ascontiguousarray(hopper[:, ::-1]))])
    assert "looks like Grace" in report.warnings[0]


def test_what_is_kept_of_a_picture_can_be_read_by_another_embedder(kit: FaceKit, hopper: Image) -> None:
    report = kit.enrolment.enrol("Grace", [png(hopper)])
    [kept] = kit.gallery.pictures(report.identity.id)
    image = decode(kept)
    assert max(image.shape[:2]) <= 512
    faces = kit.photograph(image)
    assert len(faces) == 1
    vector = kit.embed([kit.embedder.chip(image, faces.landmarks[0])])[0]
    assert float(kit.gallery.candidates.rank(vector).distance or 9) < 0.25


def test_a_picture_is_turned_as_its_exif_says(hopper: Image) -> None:
    jpeg = bytes(cv2.imencode(".jpg", np.rot90(hopper))[1].tobytes())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert decode(turned).shape == hopper.shape
    assert float(np.abs(decode(turned).astype(int) - hopper).mean()) < 6


def test_a_bomb_is_refused_by_its_header() -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2
    with pytest.raises(PictureError, match="60000x60000"):
        decode(header + b"\x08\x02\0\0\0")


def test_an_identity_from_enrolment_to_erasure(config: Path, settings: Settings, portraits: dict[str, Path]) -> None:
    added = answer(
        run(config, "add", "Grace", str(portraits["grace-hopper"]), "--consent", "in writing", "--expires", "2099-01-01", "--json")
    )
    assert (added["name"], added["accepted"], added["expires_at"]) == ("Grace", 1, 4070908800.0)
    assert [row["id"] for row in answer(run(config, "list", "--json"))] == [added["id"]]
    assert "Grace" in run(config, "list").stdout
    renamed = answer(run(config, "rename", "grace", "Grace M. Hopper", "--json"))
    assert (renamed["id"], renamed["name"]) == (added["id"], "Grace M. Hopper")
    assert run(config, "rename", "Grace M. Hopper", "Grace Hopper").stdout == f"{added['id']} is now called Grace Hopper\n"
    assert answer(run(config, "show", "Grace Hopper", "--json"))["consent"] == "in writing"
    more = answer(run(config, "add", "Grace Hopper", str(portraits["grace-hopper"]), "--json"))
    assert (more["id"], more["pictures"]) == (added["id"], 2)
    refused = run(config, "erase", "Grace Hopper", "--json")
    assert (refused.exit_code, json.loads(refused.stdout)) == (1, {"error": "aborted", "reasons": []})
    with closing(Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)) as outbox:
        receipt = answer(run(config, "erase", "Grace Hopper", "--yes", "--json"))
        audit = [envelope["data"] for envelope in outbox.history(lane="audit", after_seq=0)]
    done = ["identity add", "identity change", "identity change", "identity add", "identity erase"]
    assert [(entry["action"], entry["outcome"]) for entry in audit] == [(action, how) for action in done for how in ("accepted", "done")]
    assert {entry["actor"] for entry in audit} == {"cli"}
    assert all(entry["detail"]["id"] == added["id"] for entry in audit[1::2])
    assert "Grace" not in json.dumps(audit)
    assert (receipt["pictures"], receipt["identity"], receipt["events"]) == (2, added["id"], 0)
    assert answer(run(config, "list", "--json")) == []
    assert run(config, "show", "Grace Hopper").exit_code == 2


def test_a_folder_per_person(config: Path, tmp_path: Path, portraits: dict[str, Path], hopper: Image) -> None:
    for name in ("Eileen", "Grace"):
        (tmp_path / "people" / name).mkdir(parents=True)
    (tmp_path / "people" / "Eileen" / "1.png").write_bytes(portraits["astronaut"].read_bytes())
    (tmp_path / "people" / "Grace" / "1.WEBP").write_bytes(cv2.imencode(".webp", hopper)[1].tobytes())
    (tmp_path / "people" / "Grace" / "notes.txt").write_text("not a picture")
    assert [row["accepted"] for row in answer(run(config, "import", str(tmp_path / "people"), "--json"))] == [1, 1]
    (tmp_path / "people" / "Nobody").mkdir()
    (tmp_path / "people" / "Unreadable" / "1.jpg").mkdir(parents=True)
    again = run(config, "import", str(tmp_path / "people"), "--json")
    assert again.exit_code == 1
    assert [row.get("accepted") for row in json.loads(again.stdout)] == [1, 1, None, None]
    assert "no picture" in json.loads(again.stdout)[2]["error"]
    alone = run(config, "add", "Nobody", str(tmp_path / "people" / "Grace" / "notes.txt"), "--json")
    assert alone.exit_code == 1
    told = json.loads(alone.stdout)
    assert "no picture could be used" in told["error"]
    assert "notes.txt: not a JPEG" in told["error"]
    [reason] = told["reasons"]
    assert (Path(reason["file"]).name, reason["reason"]) == ("notes.txt", "not-a-picture")
    assert "Is a directory" in json.loads(again.stdout)[3]["error"]


def test_an_unknown_person_gets_a_name(config: Path, settings: Settings, hopper: Image) -> None:
    with closing(FaceKit.open(settings)) as kit:
        faces = kit.photograph(hopper)
        cluster = kit.gallery.clusters.assign(kit.embed([kit.embedder.chip(hopper, faces.landmarks[0])])[0])
    assert [row["id"] for row in answer(run(config, "clusters", "--json"))] == [cluster]
    assert answer(run(config, "name-cluster", str(cluster), "Grace", "--json"))["templates"] == 1
    assert answer(run(config, "clusters", "--json")) == []


def test_eval_faces(config: Path, tmp_path: Path, portraits: dict[str, Path], hopper: Image) -> None:
    for name, image in (("mirror.png", hopper[:, ::-1]), ("grey.png", np.full((200, 200, 3), 90, np.uint8))):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "hopper.jpg").write_bytes(portraits["grace-hopper"].read_bytes())
    (tmp_path / "collins.png").write_bytes(portraits["astronaut"].read_bytes())
    (tmp_path / "torn.png").write_bytes(b"torn")
    rows = ["hopper.jpg,mirror.png,Yes", "hopper.jpg,collins.png,No", "torn.png,collins.png,No", "grey.png,hopper.jpg,Yes"]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("file_x,file_y,Decision\n" + "\n".join(rows) + "\n")
    arguments = ["eval", "faces", "--pairs", str(pairs), "--root", str(tmp_path), "--config", str(config), "--json"]
    result = answer(CliRunner().invoke(app, arguments))
    assert (result["pairs"], result["accuracy"], result["best_accuracy"]) == (4, 0.75, 0.75)
    assert result["images_without_face"] == ["grey.png", "torn.png"]
    assert result["images_unreadable"] == {"torn.png": "the file is damaged, or no picture of a known kind"}
    assert (result["wrong_accepts"], result["wrong_rejects"]) == (0, 1)
    assert {"roc_auc", "eer", "accuracy_interval", "roc_auc_interval", "eer_interval"} <= result.keys()
    pairs.write_text("file_x,file_y,Decision\nhopper.jpg,gone.png,No\n")
    broken = CliRunner().invoke(app, arguments)
    assert broken.exit_code == 2
    assert "pairs.csv:2: there is no file" in broken.stderr
