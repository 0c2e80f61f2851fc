"""Answers on their way to a PACS that is there, away, full or choosy: none is lost."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from typer.testing import CliRunner

from agent.checkup import Check
from agent.checkup.dicom import dicom_checks
from agent.cli import app
from agent.dicom.destinations import UnreachableError, connected
from agent.dicom.elements import pixels_of
from agent.dicom.intake import RefusedError
from agent.dicom.service import Dicom
from agent.dicom_settings import DicomSettings
from agent.rounds import Rounds
from agent.studies import StudyFolders, StudyInstance
from agent.uplink.telemetry.dicom import DicomCollector, alarms
from agent.uplink.web.prometheus import Snapshot
from agent.wire.payloads import DicomFigures
from tests.fakes.orthanc import Orthanc
from tests.fakes.ports import free_port
from tests.fakes.radiographs import (
    ROOT_UID,
    SOCKETS_LEFT,
    accept,
    analyse,
    instance,
    phantom,
    receiving,
    result,
)
from tests.waiting import wait_until

pytestmark = SOCKETS_LEFT


def _said(done: Any, code: int) -> str:
    """What a command printed, whose end is as expected."""
    assert done.exit_code == code, done.output
    return str(done.output)


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
