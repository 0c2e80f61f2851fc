"""Answers: a report and a capture that a real PACS takes, that tools of others read, and of which none is lost."""

from __future__ import annotations

import re
import subprocess
import time
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, dcmread

from agent.dicom.answer import answer_files
from agent.dicom.decode import picture_of
from agent.dicom.reading import UnusableError, identify
from agent.studies import StudyFolders, StudyInstance
from tests.fakes.radiographs import (
    MODEL,
    PATIENT,
    ROOT_UID,
    SOCKETS_LEFT,
    file_of,
    instance,
    phantom,
    radiograph,
    result,
)

pytestmark = SOCKETS_LEFT


def answers(tmp_path: Path, data: bytes | None = None, **options: object) -> list[bytes]:
    """Of one radiograph, without any process."""
    folders = StudyFolders(tmp_path / "alone")
    data = instance(1) if data is None else data
    one = StudyInstance(folders.item("1"), data, time.time(), time.monotonic_ns())
    folders.write_instance(one)
    folders.write_picture(picture_of(one)[0])
    folders.write_result(result(one.item, **options))  # type: ignore[arg-type]
    return answer_files(folders, one.item)


def output(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, encoding="latin-1", timeout=60)
    return done.stdout + done.stderr


def test_dsrdump_prints_the_findings(tmp_path: Path) -> None:
    report, capture = answers(tmp_path)
    path = tmp_path / "report.dcm"
    path.write_bytes(report)
    text = output("dsrdump", "+Pl", path)
    assert "Verification Flag   : UNVERIFIED" in text
    assert 'NUM:(,,"Score of covid")="0.71"' in text
    assert '"Classification by machine")=(class-covid,99ALMENA,"covid")' in text
    assert "The model's score for covid is above its threshold." in text
    assert [str(dcmread(BytesIO(data)).PatientName) for data in (report, capture)] == [PATIENT, PATIENT]


@pytest.mark.parametrize("heat", [True, False])
def test_both_objects_follow_the_standard(tmp_path: Path, heat: bool) -> None:
    files = answers(tmp_path, heat=heat)
    assert len(files) == (2 if heat else 1)
    for number, data in enumerate(files):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data)
        assert re.findall("^Error.*", output("dciodvfy", path), re.MULTILINE) == []


@pytest.mark.parametrize("width", [160, 320, 1000])
def test_what_is_written_below_a_capture_fits(tmp_path: Path, width: int) -> None:
    capture = dcmread(BytesIO(answers(tmp_path, instance(1, phantom(400, width).astype("u2")))[1]))
    size = max(width // 48, 10)
    written = capture.pixel_array[400:].max(axis=(1, 2)) > 128
    assert not capture.pixel_array[400:, -size // 2 :].any()
    lines = int((written[1:] & ~written[:-1]).sum())
    assert lines == {160: 5, 320: 3, 1000: 2}[width]


def test_an_abstention_is_reported_as_one(tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(answers(tmp_path, heat=False, abstained="The view is not frontal.")[0])
    text = output("dsrdump", "+Pl", path)
    assert "No answer" in text
    assert "The view is not frontal." in text


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO 2022 IR 100", "Müller^Jörg"),
        ("ISO_IR 126", "Διονυσιος"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 6", "Plain^Name"),
        ("", "Plain^Name"),
    ],
)
def test_names_of_all_alphabets_are_repeated(tmp_path: Path, charset: str | list[str], name: str) -> None:
    files = answers(tmp_path, instance(1, SpecificCharacterSet=charset, PatientName=name))
    assert [(str(one.PatientName), one.SpecificCharacterSet) for one in map(dcmread, map(BytesIO, files))] == [(name, "ISO_IR 192")] * 2


def test_a_date_that_is_none_is_left_out(tmp_path: Path) -> None:
    data = instance(1).replace(b"20260102", b"2026-1-2")
    assert data != instance(1)
    for number, answer in enumerate(answers(tmp_path, data)):
        (tmp_path / f"{number}.dcm").write_bytes(answer)
        assert not dcmread(BytesIO(answer)).StudyDate
        assert re.findall("^Error.*", output("dciodvfy", tmp_path / f"{number}.dcm"), re.MULTILINE) == []


def test_what_is_not_written_as_the_standard_demands_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = instance(1, StudyInstanceUID="1.2.3.44", AccessionNumber=16 * "7", StudyID="ABCD", PatientAge="042Y", OtherPatientIDs="secret-X")
    changes = {b"1.2.3.44": b"1.02..44", b"SH\x10\x00" + 16 * b"7": b"SH\x12\x00" + 18 * b"7", b"ABCD": b"A\x01\x02D", b"042Y": b"42 Y"}
    for good, bad in changes.items():
        assert data.count(good) == 1
        data = data.replace(good, bad)
    for number, answer in enumerate(answers(tmp_path, data)):
        (tmp_path / f"{number}.dcm").write_bytes(answer)
        found = dcmread(BytesIO(answer))
        assert found.StudyInstanceUID.is_valid
        assert (found.AccessionNumber, found.StudyID, found.get("PatientAge")) == ("", "", None)
        assert (str(found.PatientName), found.StudyDate) == (PATIENT, "20260102")
        assert re.findall("^Error.*", output("dciodvfy", tmp_path / f"{number}.dcm"), re.MULTILINE) == []
    left_out = {str(record.args[0]) for record in caplog.records if record.args and "left out" in record.msg}
    assert left_out == {"StudyInstanceUID", "AccessionNumber", "StudyID", "PatientAge"}
    assert not any(secret in caplog.text for secret in (16 * "7", "42 Y", "secret", "1.02..44"))


@pytest.mark.parametrize(
    ("name", "vr", "value", "said"),
    [
        ("StudyDate", "LO", "notadate", ""), ("StudyDate", "LO", "20260103", "20260103"), ("AccessionNumber", "DS", "17.5", "17.5"),
        ("StudyID", "IS", "7", "7"), ("StudyID", "SH", ["7", "8"], ""),
        ("StudyInstanceUID", "LO", "1.2.3", "1.2.3"), ("PatientAge", "DS", "42", None),
        ("PatientSex", "SQ", [Dataset()], ""), ("PatientName", "OB", b"Doe", ""), ("PatientID", "UI", "1.2", "1.2"),
    ],
)  # fmt: skip
def test_what_came_with_another_vr_is_repeated_with_its_own_or_left_out(
    tmp_path: Path, name: str, vr: str, value: object, said: str | None
) -> None:
    source = radiograph(1)
    source[name] = DataElement(name, vr, value)
    for number, answer in enumerate(answers(tmp_path, file_of(source))):
        (tmp_path / f"{number}.dcm").write_bytes(answer)
        assert dcmread(BytesIO(answer)).get(name) == said
        assert re.findall("^Error.*", output("dciodvfy", tmp_path / f"{number}.dcm"), re.MULTILINE) == []


@pytest.mark.parametrize(("asked", "procedure"), [(True, "Plain chest X-ray"), (False, "Plain radiography")])
def test_a_picture_that_no_model_was_asked_about_is_not_said_to_be_of_a_chest(tmp_path: Path, asked: bool, procedure: str) -> None:
    report = answers(tmp_path, None, heat=asked, abstained="" if asked else "no frontal chest radiograph by its tags: MG", asked=asked)[0]
    (tmp_path / "report.dcm").write_bytes(report)
    assert f'"{procedure}")' in output("dsrdump", tmp_path / "report.dcm")


@pytest.mark.parametrize("uid", ["1..2", "1.02", ".1", "1.2."])
def test_an_instance_whose_uid_is_none_is_refused(uid: str) -> None:
    data = instance(1).replace(f"{ROOT_UID}.3.1".encode(), uid.encode().ljust(len(f"{ROOT_UID}.3.1"), b"\0"))
    with pytest.raises(UnusableError, match="SOP Instance UID"):
        identify(data)


def test_uids_follow_from_what_the_answer_is_made_of(tmp_path: Path) -> None:
    first, again = (answers(tmp_path / name) for name in ("one", "two"))
    uids = [[str(dcmread(BytesIO(data)).SOPInstanceUID) for data in files] for files in (first, again)]
    assert uids[0] == uids[1]
    assert len(set(uids[0])) == 2
    capture = dcmread(BytesIO(first[1]))
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == dcmread(BytesIO(instance(1))).SOPInstanceUID
    assert capture.ContributingEquipmentSequence[0].ManufacturerModelName == MODEL
