"""Radiographs come in from DCMTK's senders: what is acknowledged is stored, whatever happens."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation, Verification  # type: ignore[attr-defined]

from agent.dicom import sockets
from agent.dicom.decode import picture_of
from agent.dicom.elements import pixels_of
from agent.dicom.intake import RefusedError
from agent.dicom.service import Dicom
from agent.studies import SealedFolder, StudyFolders, StudyInstance
from engines.fetch import ensure_asset
from tests.fakes.certificates import Authority
from tests.fakes.ports import free_port
from tests.fakes.radiographs import PATIENT, ROOT_UID, SOCKETS_LEFT, file_of, instance, phantom, radiograph, receiving
from tests.fakes.small_disk import on_small_disk
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PIXELS = (phantom() * 4095).astype("u2")

pytestmark = SOCKETS_LEFT


def dcmtk(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def send(running: Dicom, *files: object, options: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
    assert running.receiver
    return dcmtk("storescu", "-v", "-aec", "ALMENA", *options, "127.0.0.1", running.receiver.port, *files)


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def failures(running: Dicom) -> dict[str, int]:
    found: dict[str, int] = running.counters.figures()["failed"]
    return found


def test_an_echo_is_answered_and_another_title_is_not(tmp_path: Path) -> None:
    with receiving(tmp_path) as running:
        assert running.receiver
        assert dcmtk("echoscu", "-aec", "ALMENA", "127.0.0.1", running.receiver.port).returncode == 0
        assert dcmtk("echoscu", "-aec", "OTHER", "127.0.0.1", running.receiver.port).returncode != 0


def test_a_worker_that_ended_is_no_sign_of_life(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-sixteen-characters")
    with receiving(tmp_path, web={"port": 0, "token_file": tmp_path / "token"}, folder={"path": tmp_path}) as running:
        assert running.alive
        running.sender.stop()
        assert not running.alive


def test_a_real_radiograph_becomes_a_picture_compressed_or_not(tmp_path: Path, cache_dir: Path) -> None:
    plain = ensure_asset("chest-radiograph", cache_dir / "models")
    packed = ensure_asset("chest-radiograph-jpeg-2000", cache_dir / "models")
    with receiving(tmp_path / "one") as first, receiving(tmp_path / "two") as second:
        for running, path, options in ((first, plain, ()), (second, packed, ("-xv",))):
            assert send(running, path, options=options).returncode == 0
            (item,) = wait_until(running.folders.pictures.items, 60, "the picture")
            picture = running.folders.picture(item)
            assert (picture.view, picture.body_part, picture.note) == ("PA", "CHEST", "")
            assert picture.image.shape == (1955, 1841)
            assert picture.image.std() > 20
        assert picture.codec_s > 0.01


@pytest.mark.parametrize(
    ("program", "arguments", "option"),
    [
        ("dcmcjpeg", ["+e1"], "-xs"),
        ("dcmcjpeg", ["+eb"], "-xy"),
        ("dcmcjpls", ["+el"], "-xt"),
        ("dcmcrle", [], "-xr"),
        ("dcmconv", ["+td"], "-xd"),
        ("dcmconv", ["+tb"], "-xb"),
    ],
)
def test_the_syntaxes_of_dcmtk_are_read(tmp_path: Path, program: str, arguments: list[str], option: str) -> None:
    eight = program == "dcmcjpeg" and arguments == ["+eb"]
    pixels = (phantom() * 255).astype("u1") if eight else None
    plain = written(tmp_path, "plain.dcm", instance(1, pixels))
    packed = tmp_path / "packed.dcm"
    done = dcmtk(program, *arguments, plain, packed)
    assert done.returncode == 0, done.stderr
    with receiving(tmp_path) as running:
        sent = send(running, packed, options=(option,))
        assert sent.returncode == 0, sent.stderr
        (item,) = wait_until(lambda: running.folders.pictures.items() or failures(running), 30, "the picture")
        image = running.folders.picture(item).image.astype(int)
    expected = picture_of(StudyInstance(item, plain.read_bytes(), time.time(), time.monotonic_ns()))[0].image
    if arguments == ["+eb"]:  # lossy, and dcmcjpeg stretches the values
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.99
    else:
        assert np.array_equal(image, expected)


def test_a_repeat_is_welcome_and_other_pixels_under_the_same_uid_are_not(tmp_path: Path) -> None:
    one = written(tmp_path, "one.dcm", instance(1))
    other = written(tmp_path, "other.dcm", instance(1, phantom(seed=9).astype("u2")))
    with receiving(tmp_path) as running:
        assert send(running, one, one).returncode == 0
        refused = send(running, other)
        assert "Error: CannotUnderstand" in refused.stderr
        assert len(running.folders.inbox.items()) == 1
        figures = running.counters.figures()
        assert (figures["accepted"], figures["duplicates"], figures["refused"]) == (1, 1, {"conflict": 1})


def test_other_pixels_are_refused_while_the_answer_is_just_taken_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(tmp_path) as running:
        folders, read = running.folders, StudyFolders.instance
        assert running.receiver
        item = running.receiver._intake.accept(instance(1)).item
        wait_until(folders.pictures.items, 30, "the picture")

        def answered_meanwhile(self: StudyFolders, name: str, folder: SealedFolder | None = None) -> StudyInstance:
            if not self.answered.holds(name):
                receipt = {"pixels": self.fingerprint(pixels_of(self.inbox.read(name)[1]))}
                self.answered.write(name, receipt, b"", at=time.time(), durable=True)
                self.inbox.retire(name)
            return read(self, name, folder)

        monkeypatch.setattr(StudyFolders, "instance", answered_meanwhile)
        with pytest.raises(RefusedError, match="other pixels"):
            running.receiver._intake.accept(instance(1, phantom(seed=9).astype("u2")))
        assert folders.answered.holds(item)
        assert not folders.inbox.holds(item)


def test_what_cannot_be_used_is_kept_with_its_reason_and_may_come_again(tmp_path: Path) -> None:
    with receiving(tmp_path) as running:
        assert send(running, written(tmp_path, "cut.dcm", instance(1, PixelData=bytes(64)))).returncode == 0
        (failure,) = wait_until(running.folders.failures, 30, "the failure")
        assert failure.reason == "truncated"
        wait_until(lambda: failures(running) == {"truncated": 1}, 30, "the failure to be counted")
        (waiting,) = running.folders.reports.items()
        assert running.folders.report(waiting) == failure
        assert running.folders.failed.items() == [failure.item]
        assert send(running, written(tmp_path, "whole.dcm", instance(1))).returncode == 0
        wait_until(running.folders.pictures.items, 30, "the picture")
        assert running.folders.failures() == []


def test_only_who_is_allowed_may_send(tmp_path: Path) -> None:
    path = written(tmp_path, "one.dcm", instance(1))
    allowed = {"allow": [{"ae_title": "MODALITY", "address": "127.0.0.0/8"}, {"ae_title": "ELSEWHERE", "address": "192.0.2.1"}]}
    with receiving(tmp_path, receiver=allowed) as running:
        assert send(running, path, options=("-aet", "STRANGER")).returncode != 0
        assert send(running, path, options=("-aet", "ELSEWHERE")).returncode != 0
        assert running.folders.inbox.items() == []
        assert send(running, path, options=("-aet", "MODALITY")).returncode == 0


def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server, client = authority.server(), authority.client("modality")
    path = written(tmp_path, "one.dcm", instance(1))
    tls = {"cert_file": server.cert, "key_file": server.key, "client_ca_file": authority.cert}
    with receiving(tmp_path, receiver={"tls": tls}) as running:
        assert send(running, path).returncode != 0
        sent = send(running, path, options=("+tls", client.key, client.cert, "+cf", authority.cert))
        assert sent.returncode == 0, sent.stderr


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_flood_of_callers_shuts_nobody_out_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_S", 2.0)
    path = written(tmp_path, "one.dcm", instance(1))
    authority = Authority(tmp_path / "ca")
    server = authority.server()
    options = ("+tla", "+cf", authority.cert) if tls else ()
    secure = {"tls": {"cert_file": server.cert, "key_file": server.key}} if tls else {}
    with receiving(tmp_path, receiver={"associations": 2, "idle_s": 2.0, **secure}) as running:
        assert running.receiver
        silent = [socket.create_connection(("127.0.0.1", running.receiver.port)) for _ in range(30)]
        wait_until(lambda: running.counters.figures()["refused"].get("flood", 0) > 5, 30, "refused connections")
        wait_until(lambda: send(running, path, options=options).returncode == 0, 60, "an instance to be taken while others are silent")
        for connection in silent:
            connection.close()


def test_a_sender_that_stops_in_the_middle_is_sent_away_and_leaves_nothing(tmp_path: Path) -> None:
    with receiving(tmp_path, receiver={"idle_s": 1.0}) as running:
        assert running.receiver
        entity = AE()
        entity.add_requested_context(DigitalXRayImageStorageForPresentation)
        association = entity.associate("127.0.0.1", running.receiver.port, ae_title="ALMENA")
        assert association.is_established
        raw = association.dul.socket.socket
        raw.sendall(b"\x04\x00\x00\x00\x20\x00" + bytes(1000))
        wait_until(lambda: not running.receiver._server.active_associations, 30, "the end of the association")  # type: ignore[union-attr]
        association.abort()
        raw.close()
        assert running.folders.inbox.items() == []
        assert dcmtk("echoscu", "-aec", "ALMENA", "127.0.0.1", running.receiver.port).returncode == 0


def test_what_is_too_large_is_cut_off(tmp_path: Path) -> None:
    large = written(tmp_path, "large.dcm", instance(1, phantom(1500, 1500).astype("u2")))
    with receiving(tmp_path, max_instance_bytes=1024 * 1024) as running:
        assert send(running, large).returncode != 0
        assert running.counters.figures()["refused"]["too-large"] >= 1
        assert send(running, written(tmp_path, "one.dcm", instance(1))).returncode == 0


@on_small_disk(8)
def test_a_full_disk_refuses_and_takes_the_same_later(tmp_path: Path, small_disk: Path) -> None:
    files = [written(tmp_path, f"{n}.dcm", instance(n, phantom(1000, 1000, n).astype("u2"))) for n in range(1, 5)]
    with receiving(small_disk) as running:
        codes = [send(running, path) for path in files]
        refused = [path for path, sent in zip(files, codes, strict=True) if sent.returncode != 0]
        assert refused
        assert all("Refused: OutOfResources" in sent.stderr for sent in codes if sent.returncode != 0)
        held = running.folders.inbox.items()
        assert len(held) == len(files) - len(refused)
        for item in held:
            running.folders.inbox.remove(item)
            running.folders.pictures.remove(item)
        assert send(running, refused[0]).returncode == 0


def test_nothing_of_the_patient_is_in_logs_or_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with receiving(tmp_path) as running:
        send(running, written(tmp_path, "a.dcm", instance(1, PatientComments="Unmistakable")))
        send(running, written(tmp_path, "b.dcm", instance(2, PixelData=None, StudyID="Unmistakable")))
        wait_until(running.folders.pictures.items, 30, "the picture")
        wait_until(running.folders.failures, 30, "the failure")
        running.tell()
    family = PATIENT.partition("^")[0].encode()
    for path in (tmp_path / "state").rglob("*"):
        assert family.decode() not in path.name
        assert ROOT_UID not in path.name
        assert not path.is_file() or (family not in path.read_bytes() and ROOT_UID.encode() not in path.read_bytes())
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("agent")]
    assert ours
    assert not any("Unmistakable" in line or ROOT_UID in line or "secret-" in line for line in ours)


def test_libraries_say_nothing_of_the_data_set_in_the_log_of_the_process(tmp_path: Path) -> None:
    port, settings = free_port(), tmp_path / "almena.yaml"
    settings.write_text(f"state_dir: state\nweb: {{enabled: false}}\ndicom: {{min_free_bytes: 0, receiver: {{port: {port}}}}}\n")
    told = instance(1).replace(b"ISO_IR 100", b"DOE^J 1940")
    process = subprocess.Popen([sys.executable, "-m", "agent.dicom", str(settings)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: listens(port), 60, "the receiver")
        dcmtk("storescu", "-aec", "ALMENA", "127.0.0.1", port, written(tmp_path, "a.dcm", told))
        wait_until(lambda: list((tmp_path / "state/studies/pictures").iterdir()), 60, "the picture")
    finally:
        process.terminate()
        log = process.communicate()[1]
    assert "receiving: C-STORE" in log
    assert "DOE" not in log


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _send_all(port: int, kept: list[str], stop: threading.Event) -> None:
    """Like a modality: tries each until it is acknowledged."""
    entity = AE()
    entity.add_requested_context(DigitalXRayImageStorageForPresentation)
    entity.add_requested_context(Verification)
    number = 1
    while not stop.is_set():
        if not listens(port):
            time.sleep(0.05)  # the back-off of a modality
            continue
        association = entity.associate("127.0.0.1", port, ae_title="ALMENA")
        raw = association.dul.socket.socket if association.dul.socket else None
        while association.is_established and not stop.is_set():
            dataset = radiograph(number, PIXELS)
            file_of(dataset)
            try:
                status = association.send_c_store(dataset)
            except (RuntimeError, ValueError):
                break
            if status.get("Status") != 0:
                break
            kept.append(str(dataset.SOPInstanceUID))
            number += 1
        if association.is_established:
            association.release()
        if raw:
            raw.close()


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=pytest.mark.soak)])
def test_what_was_acknowledged_outlives_kills(tmp_path: Path, kills: int) -> None:
    port, settings = free_port(), tmp_path / "almena.yaml"
    settings.write_text(f"state_dir: state\nweb: {{enabled: false}}\ndicom: {{min_free_bytes: 0, receiver: {{port: {port}}}}}\n")
    kept: list[str] = []
    stop = threading.Event()
    sender = threading.Thread(target=_send_all, args=(port, kept, stop))
    process: subprocess.Popen[Any] | None = None
    sender.start()
    try:
        for _ in range(kills):
            process = subprocess.Popen([sys.executable, "-m", "agent.dicom", str(settings)], cwd=ROOT)
            before = len(kept)
            wait_until(lambda before=before: len(kept) > before + 3, 60, "acknowledged instances")  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = subprocess.Popen([sys.executable, "-m", "agent.dicom", str(settings)], cwd=ROOT)
        stop.set()
        sender.join()
        folders = StudyFolders(tmp_path / "state")
        expected = {folders.item(uid) for uid in kept}
        assert expected <= set(folders.inbox.items())
        wait_until(lambda: expected <= set(folders.pictures.items()), 120, "every picture")
        assert folders.failures() == []
    finally:
        stop.set()
        sender.join()
        if process:
            process.kill()
            process.wait()
