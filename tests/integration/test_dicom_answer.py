"""Answers: a report and a capture that a real PACS takes, that tools of others read, and of which none is lost."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydicom import DataElement, Dataset, dcmread
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from typer.testing import CliRunner

from agent.checkup import Check
from agent.checkup.dicom import dicom_checks
from agent.cli import app
from agent.dicom.answer import answer_files
from agent.dicom.decode import picture_of
from agent.dicom.destinations import UnreachableError, connected
from agent.dicom.elements import pixels_of
from agent.dicom.intake import RefusedError
from agent.dicom.reading import UnusableError, identify
from agent.dicom.service import Dicom
from agent.dicom_settings import DicomSettings
from agent.rounds import Rounds
from agent.studies import StudyFolders, StudyInstance
from agent.uplink.telemetry.dicom import DicomCollector, alarms
from agent.uplink.web.prometheus import Snapshot
from agent.wire.payloads import DicomFigures
from tests.fakes.orthanc import Orthanc
from tests.fakes.ports import free_port
from tests.fakes.radiographs import MODEL, PATIENT, ROOT_UID, analyse, file_of, instance, phantom, radiograph, receiving, result
from tests.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""pynetdicom's clients leave the sockets of connections that broke to the garbage collector."""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Here, not in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield server
    server.stop()


def _said(done: Any, code: int) -> str:
    """What a command printed, whose end is as expected."""
    assert done.exit_code == code, done.output
    return str(done.output)


def accept(running: Dicom, number: int) -> str:
    """Take an instance, and wait for its picture."""
    (intake,) = [running.receiver._intake] if running.receiver else []
    item = intake.accept(instance(number)).item
    wait_until(lambda: running.folders.pictures.holds(item), 30, "the picture")
    return item


def answers(tmp_path: Path, data: bytes | None = None, **options: object) -> list[bytes]:
    """Of one radiograph, without any process."""
    folders = StudyFolders(tmp_path / "alone")
    data = instance(1) if data is None else data
    one = StudyInstance(folders.item("1"), data, time.time(), time.monotonic_ns())
    folders.write_instance(one)
    folders.write_picture(picture_of(one)[0])
    folders.write_result(result(one.item, **options))  # type: ignore[arg-type]
    return answer_files(folders, one.item)


def figures(running: Dicom, state: Path) -> dict[str, Any]:
    """As telemetry tells them; they hold nothing of a patient, and nothing that the schema does not know."""
    running.tell()
    found = DicomCollector(state).collect()
    assert not any(secret in json.dumps(found) for secret in (ROOT_UID, "secret-", "nna"))
    assert set(found) - {"ports"} <= set(DicomFigures.model_fields) | {"at"}
    DicomFigures.model_validate(found)
    return found


def told(running: Dicom, state: Path) -> dict[str, float]:
    """As Prometheus reads them: by name and labels."""
    text = Snapshot(None, {}, {}, {"state": "off", "published": 0}, {"dicom": figures(running, state)}).text().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{sample.name}{dict(sorted(sample.labels.items())) or ''}": sample.value for sample in samples}


def checks(state: Path) -> list[Check]:
    """What `almena doctor` says."""
    return [*dicom_checks(DicomSettings.model_validate({"receiver": {"enabled": False}}), state)]


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


def test_a_pacs_that_was_down_gets_everything_once_it_is_up(tmp_path: Path, pacs: Orthanc) -> None:
    destination = {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "first_retry_s": 0.2, "longest_retry_s": 0.4}
    with receiving(tmp_path, destination=destination) as running:
        items = [accept(running, number) for number in (1, 2, 3)]
        for item in items:
            analyse(running.folders, item)
        wait_until(lambda: running.counters.figures().get("unreachable", 0) > 1, 30, "failed attempts")
        assert "does not answer" in running.sender.trouble
        assert set(running.folders.inbox.items()) == set(items)
        down = told(running, tmp_path / "state")
        assert down["almena_dicom_destination_up"] == 0
        assert (down["almena_dicom_waiting{'folder': 'inbox'}"], down["almena_dicom_instances_total{'result': 'accepted'}"]) == (3, 3)
        assert 0 <= down["almena_dicom_oldest_age_seconds{'folder': 'inbox'}"] < 120
        assert 0 < down["almena_dicom_step_seconds{'quantile': '0.5', 'stage': 'decode'}"] < 60
        assert down["almena_dicom_destination_down_since_timestamp_seconds"] == pytest.approx(time.time(), abs=120)
        assert [line.partition(" for ")[0] for line in alarms(figures(running, tmp_path / "state"))] == ["answers wait"]
        (waits,) = [check for check in checks(tmp_path / "state") if check.name == "dicom process"]
        assert (waits.state, "3 radiographs wait" in waits.text) == ("fail", True)
        pacs.start()
        wait_until(lambda: len(running.folders.answered.items()) == 3, 60, "every answer to be sent")
        wait_until(lambda: not running.folders.inbox.items() and not running.folders.answers.items(), 30, "nothing to be left")
        assert running.sender.trouble == ""
        up = told(running, tmp_path / "state")
        assert (up["almena_dicom_destination_up"], up["almena_dicom_instances_total{'result': 'answered'}"]) == (1, 3)
        assert alarms(figures(running, tmp_path / "state")) == []
        held = [dcmread(BytesIO(data)).SOPClassUID for data in pacs.instances()]
        assert (held.count(ComprehensiveSRStorage), held.count(SecondaryCaptureImageStorage)) == (3, 3)
        assert running.receiver is not None
        assert running.receiver._intake.accept(instance(1)).duplicate
        with pytest.raises(RefusedError, match="other pixels"):
            running.receiver._intake.accept(instance(1, phantom(seed=8).astype("u2")))


def test_what_a_pacs_rejects_is_kept_apart_and_holds_nothing_up(tmp_path: Path) -> None:
    entity = AE(ae_title="PACS")
    for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        entity.add_supported_context(sop_class)
    refuse = {"1.2.826.0.1.3680043.10.1337.1.1"}
    taken: list[str] = []

    def store(event: evt.Event) -> int:
        study = str(event.dataset.StudyInstanceUID)
        time.sleep(0.5)  # a slow PACS, after which no answer waits for long
        if study in refuse:
            return 0xC000
        taken.append(study)
        return 0x0000

    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        destination = {"host": "127.0.0.1", "port": port, "ae_title": "PACS", "first_retry_s": 0.1}
        with receiving(tmp_path, destination=destination) as running:
            bad, good = accept(running, 1), accept(running, 2)
            for item in (bad, good):
                analyse(running.folders, item)
            wait_until(lambda: running.folders.dead.items() == [bad], 25, "the rejected one in dead/")
            wait_until(lambda: running.folders.answered.items() == [good], 60, "the other to be sent")
            assert told(running, tmp_path / "state")["almena_dicom_waiting{'folder': 'dead'}"] == 1
            assert alarms(figures(running, tmp_path / "state")) == ["1 answers were given up (studies/dead)"]
            assert [check.state for check in checks(tmp_path / "state") if check.name == "radiographs"] == ["fail"]
            (failure,) = running.folders.failures(running.folders.dead)
            assert (failure.reason, "C000H" in failure.detail) == ("rejected", True)
            refuse.clear()
            assert running.receiver is not None
            assert running.receiver._intake.accept(instance(1)).duplicate
            wait_until(lambda: bad in running.folders.answered.items(), 60, "the rejected one, sent again by hand")
            refuse.add("1.2.826.0.1.3680043.10.1337.1.3")
            refuse.add("1.2.826.0.1.3680043.10.1337.1.4")
            again, never = accept(running, 3), accept(running, 4)
            for item in (again, never):
                analyse(running.folders, item)
            wait_until(lambda: set(running.folders.dead.items()) == {again, never}, 25, "the next two")
            refuse.clear()
            settings = tmp_path / "almena.yaml"
            settings.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "dicom": {"destination": destination}}))
            cli = CliRunner()
            studies = lambda *given, code=0: _said(cli.invoke(app, ["studies", *given, "-c", str(settings)]), code)  # noqa: E731
            told_of = {one["item"]: (one["folder"], one["reason"]) for one in json.loads(studies("list", "--json"))}
            assert told_of == {again: ("dead", "rejected"), never: ("dead", "rejected")}
            assert "C000H" in studies("list")
            studies("retry", code=2)
            studies("retry", good, code=2)
            assert studies("retry", again) == "1 answers are sent again\n"
            wait_until(lambda: again in running.folders.answered.items(), 60, "the one of the command line")
            assert json.loads(studies("forget", "--all", "--yes", "--json")) == [never]
            assert (running.folders.dead.items(), running.folders.failures(running.folders.dead)) == ([], [])
            assert "nothing failed" in studies("list")
    finally:
        if server:
            server.shutdown()


def test_what_a_pacs_has_no_room_for_waits_and_holds_nothing_up(tmp_path: Path) -> None:
    entity = AE(ae_title="PACS")
    entity.require_called_aet = True
    for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        entity.add_supported_context(sop_class)
    late = "1.2.826.0.1.3680043.10.1337.1.1"
    full = {(late, SecondaryCaptureImageStorage)}
    status = 0xA700
    taken: list[tuple[str, str]] = []
    opened: list[object] = []
    asked: list[object] = []

    def store(event: evt.Event) -> int:
        one = (str(event.dataset.StudyInstanceUID), str(event.dataset.SOPClassUID))
        if one in full:
            return status
        taken.append(one)
        return 0x0000

    port = free_port()
    handlers: list[Any] = [(evt.EVT_C_STORE, store), (evt.EVT_CONN_OPEN, opened.append), (evt.EVT_REQUESTED, asked.append)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    destination = {"host": "127.0.0.1", "port": port, "ae_title": "PACS", "first_retry_s": 0.1, "longest_retry_s": 0.5}
    try:
        with receiving(tmp_path, destination=destination) as running:
            waits, goods = accept(running, 1), [accept(running, number) for number in (2, 3)]
            for item in (waits, *goods):
                analyse(running.folders, item)
            wait_until(lambda: set(running.folders.answered.items()) == set(goods), 60, "the others to be sent")
            wait_until(lambda: "no room (status A700H)" in running.sender.trouble, 30, "the reason")
            status = 0x0110
            wait_until(lambda: "could not process it (status 0110H)" in running.sender.trouble, 30, "the other reason")
            assert (running.folders.inbox.items(), running.folders.dead.items()) == ([waits], [])
            full.clear()
            wait_until(lambda: waits in running.folders.answered.items(), 60, "the one that waited")
        assert taken.count((late, ComprehensiveSRStorage)) == 1, "what it has is not sent again"
        assert len(opened) == len(asked), "no connection that asks for nothing: a PACS counts it"
        wrong = DicomSettings.model_validate({"destination": destination | {"ae_title": "ARCHIVE"}}).destination
        assert wrong is not None
        with pytest.raises(UnreachableError, match="rejected the association: called ae title not recogni"), connected(wrong, "ALMENA"):
            pass
    finally:
        if server:
            server.shutdown()


def test_what_was_answered_before_the_connection_broke_is_not_given_up(tmp_path: Path) -> None:
    entity, taken = AE("PACS"), []
    for kind in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        entity.add_supported_context(kind)

    def store(event: evt.Event) -> int:
        taken.append(str(event.dataset.StudyInstanceUID))
        if len(set(taken)) > 1:
            event.assoc.abort()
        return 0x0000

    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        destination = {"host": "127.0.0.1", "port": port, "ae_title": "PACS", "give_up_h": 1e-9}
        with receiving(tmp_path, destination=destination) as running:
            items = {accept(running, number) for number in (1, 2)}
            running.sender.stop()  # both go by one connection, below
            running.sender._rounds = Rounds("once", lambda: None, 1.0)
            for item in items:
                analyse(running.folders, item)
                running.sender._workshop.build(item)
            wait_until(lambda: set(running.folders.answers.items()) == items, 30, "both answers")
            running.sender._send(sorted(items))
            dead = {failure.item for failure in running.folders.failures(running.folders.dead)}
            assert (len(running.folders.answered.items()), len(dead)) == (1, 1)
            assert dead.isdisjoint(running.folders.answered.items())
    finally:
        if server:
            server.shutdown()


def test_a_pacs_gets_answers_by_stow_once_it_is_up(tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    try:
        with receiving(tmp_path, destination={"url": pacs.studies, "first_retry_s": 0.2, "longest_retry_s": 0.4}) as running:
            items = [accept(running, number) for number in (1, 2, 3)]
            for item in items:
                analyse(running.folders, item)
            wait_until(lambda: "does not answer" in running.sender.trouble, 30, "a failed attempt")
            pacs.start()
            wait_until(lambda: set(running.folders.answered.items()) == set(items), 60, "every answer to be sent")
            assert (running.sender.trouble, running.folders.dead.items()) == ("", [])
        held = {str(one.SOPInstanceUID): str(one.SOPClassUID) for one in (dcmread(BytesIO(data)) for data in pacs.instances())}
        assert sorted(held.values()) == sorted([ComprehensiveSRStorage, SecondaryCaptureImageStorage] * 3)
    finally:
        pacs.stop()


def test_answers_go_by_stow_too(tmp_path: Path) -> None:
    bodies: list[tuple[str, bytes]] = []

    class Store(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            in_json = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [43264]}}]}}'
            in_xml = (
                b'<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ">\n <Item number="1"></Item></DicomAttribute></NativeDicomModel>'
            )
            answer = b"" if len(bodies) > 2 else (in_json, in_xml)[len(bodies) - 1]
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        destination = {"url": f"http://127.0.0.1:{server.server_port}/dicom-web/studies", "first_retry_s": 0.1}
        with receiving(tmp_path, destination=destination) as running:
            analyse(running.folders, accept(running, 1))
            wait_until(running.folders.answered.items, 60, "the answer")
            assert running.counters.figures()["rejected"] == 2, "listed as a failure, whatever the status"
        assert len(bodies) == 4
        assert all(kind.startswith('multipart/related; type="application/dicom"') and b"DICM" in body for kind, body in bodies)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_picture_that_a_loss_of_power_took_before_its_event_was_committed_is_made_again(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path / "state")
    one = StudyInstance(folders.item("1"), instance(1), time.time(), time.monotonic_ns())
    folders.write_instance(one)
    folders.write_result(result(one.item))
    with receiving(tmp_path) as running:
        wait_until(lambda: running.folders.pictures.holds(one.item), 30, "the picture")
        assert running.folders.inbox.items() == [one.item]
        running.folders.picture_done(one.item)
        wait_until(lambda: running.folders.answered.items() == [one.item], 30, "the receipt")


def test_without_a_destination_a_result_is_the_end(tmp_path: Path) -> None:
    with receiving(tmp_path, keep_h=0.001) as running:
        item = accept(running, 1)
        running.folders.write_result(result(item))
        running.sender.look()
        assert running.folders.inbox.items() == [item], "its event is not committed, and a loss of power may take the picture"
        running.folders.picture_done(item)
        wait_until(lambda: running.folders.answered.items() == [item] and not running.folders.inbox.items(), 30, "the receipt")
        assert running.folders.answered.read(item)[0]["pixels"] == running.folders.fingerprint(pixels_of(instance(1)))
        assert (running.folders.shown.items(), running.folders.results.items()) == ([item], [item])
        running.expire(time.time() + 60)
        assert (running.folders.shown.items(), running.folders.results.items(), running.folders.answered.items()) == ([], [], [item])
