"""Damaged files, requests and PDUs: each is refused, is answered, or has a reason; where a codec crashes, only its worker ends."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from pynetdicom import AE, evt

from agent.dicom.counters import Counters
from agent.dicom.elements import pixels_of
from agent.dicom.reading import UnusableError, identify, inflated
from agent.dicom.workshop import Workshop
from agent.studies import StudyFolders, StudyInstance
from tests.fakes.radiographs import ROOT_UID, analyse, instance, phantom, receiving
from tests.waiting import wait_until

KNOWN = {
    "crash", "damaged", "own-result", "no-pixels", "colour", "multi-frame", "bits", "size", "truncated", "codec", "window", "memory",
}  # fmt: skip
ACCEPTED = b"\x02"
NO_COMMAND = bytes.fromhex("0400 00000006 00000002 0103")
"""A P-DATA-TF with a command that says nothing."""
ABORTED = bytes.fromhex("0700 00000004 0000 0206")
"""By the service provider, for an invalid parameter."""
AT_THE_DOOR = {"not-dicom", "transfer-syntax", "sop-class", "uid", "too-large"}


def seeds(folder: Path) -> list[bytes]:
    """The same radiograph, plain and as DCMTK compresses it."""
    plain = folder / "plain.dcm"
    plain.write_bytes(instance(1, (phantom(64, 64) * 255).astype("u1"), WindowCenter="100", WindowWidth="90"))
    found = [plain.read_bytes(), instance(2, RescaleSlope="1", RescaleIntercept="-7", ViewPosition="PA")]
    commands = (["dcmcjpeg", "+e1"], ["dcmcjpeg", "+eb"], ["dcmcjpls", "+el"], ["dcmcrle"], ["dcmconv", "+td"], ["dcmconv", "+tb"])
    for number, command in enumerate(commands):
        packed = folder / f"{number}.dcm"
        subprocess.run([*command, str(plain), str(packed)], check=True, capture_output=True)
        found.append(packed.read_bytes())
    (folder / "deep.dcm").write_bytes(found[1])
    subprocess.run(["dcmcjpeg", "+ee", str(folder / "deep.dcm"), str(folder / "extended.dcm")], check=True, capture_output=True)
    return [*found, (folder / "extended.dcm").read_bytes()]


def mutated(data: bytes, chance: random.Random, start: int = 132) -> bytes:
    """Bytes changed, cut out, repeated, or the end cut off; from `start` on."""
    changed, least = bytearray(data), min(1000, len(data) // 2)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        if len(changed) <= start + 1:
            break
        place = chance.randrange(start, len(changed)) if chance.random() < 0.7 else chance.randrange(start, min(len(changed), 1500))
        kind = chance.randrange(5)
        if kind < 2:
            changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            changed[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xfe\xff\x00\xe0"))
        elif kind == 3:
            del changed[place : place + chance.randrange(1, 9)]
        else:
            changed[place:place] = changed[place : place + chance.randrange(1, 64)]
        if len(changed) < least:
            break
    return bytes(changed[: chance.randrange(start + 1, len(changed))] if len(changed) > start + 1 and chance.random() < 0.1 else changed)


@pytest.mark.parametrize("seconds", [50, pytest.param(600, marks=pytest.mark.soak)])
def test_a_damaged_file_ends_its_worker_at_most(tmp_path: Path, seconds: float) -> None:
    folders = StudyFolders(tmp_path)
    workshop = Workshop(folders, tmp_path, None, Counters())
    chance, originals, outcomes = random.Random(20260102), seeds(tmp_path), Counter[str]()
    until, number = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < until or number < 50:
            number += 1
            data = mutated(chance.choice(originals), chance)
            try:
                data = inflated(data, 1 << 22)
                identify(data)
            except UnusableError as error:
                outcomes[error.reason] += 1
                continue
            item = folders.item(str(number))
            folders.write_instance(StudyInstance(item, data, time.time(), time.monotonic_ns()))
            outcome = workshop._outcome("decode", item)
            if outcome is None:
                outcome = {"reason": "crash"}
            if outcome.get("reason", "damaged") not in KNOWN:
                (tmp_path / "found.dcm").write_bytes(data)
                raise AssertionError(f"mutation {number} of this seed: {outcome}; kept as {tmp_path / 'found.dcm'}")
            outcomes[outcome.get("reason", "a picture")] += 1
            if "reason" not in outcome:
                analyse(folders, item)
                built = workshop._outcome("build", item)
                assert built is not None
                assert built.get("reason", "answer") == "answer", built
                outcomes["no answer" if built else "an answer"] += 1
            for folder in (folders.inbox, folders.pictures, folders.shown, folders.results, folders.answers):
                folder.remove(item)
        item = folders.item("sound")
        folders.write_instance(StudyInstance(item, originals[0], time.time(), time.monotonic_ns()))
        assert workshop._outcome("decode", item) == {"pixels": folders.fingerprint(pixels_of(originals[0]))}, "the next worker goes on"
    finally:
        workshop._end_worker()
    print(number, dict(outcomes))
    assert len(outcomes) > 3
    assert outcomes["a picture"] > 0
    assert outcomes["an answer"] > 0
    assert set(outcomes) <= KNOWN | AT_THE_DOOR | {"a picture", "an answer", "no answer"}


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.soak)])
def test_damaged_requests_are_answered(tmp_path: Path, seconds: float) -> None:
    chance, until, answers = random.Random(3), time.monotonic() + seconds, Counter[int]()
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    part = b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n"
    (tmp_path / "token").write_text("a-token-of-sixteen-characters")
    with receiving(tmp_path, web={"port": 0, "token_file": tmp_path / "token"}) as running:
        assert running.web
        options = {"headers": {"Authorization": "Bearer a-token-of-sixteen-characters"}, "timeout": 60.0}
        with httpx.Client(base_url=f"http://127.0.0.1:{running.web.port}", **options) as client:  # type: ignore[arg-type]
            while time.monotonic() < until or sum(answers.values()) < 20:
                number, start = 2 * sum(answers.values()), chance.choice((0, 132))
                body = part % instance(number) + part % instance(number + 1) + b"--b--\r\n"
                wrong = "".join(chance.sample(kind, len(kind))).strip() if chance.random() < 0.1 else kind
                sent = client.post("/dicom-web/studies", content=mutated(body, chance, start), headers={"Content-Type": wrong})
                answers[sent.status_code] += 1
            sound = client.post("/dicom-web/studies", content=part % instance(10**6) + b"--b--\r\n", headers={"Content-Type": kind})
        assert sound.status_code == 200
        assert running.alive
    assert set(answers) <= {200, 202, 400, 409}
    assert len(answers) > 2


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.soak)])
def test_damaged_associations_keep_nobody_else_out(tmp_path: Path, seconds: float) -> None:
    chance, until, trials = random.Random(4), time.monotonic() + seconds, 0
    with receiving(tmp_path, receiver={"associations": 8}) as running:
        assert running.receiver
        port, said = running.receiver.port, conversation(running.receiver.port, 1)
        while time.monotonic() < until or trials < 20:
            trials += 1
            damaged = chance.randrange(len(said))
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as caller:
                for pdu in [*said[:damaged], mutated(said[damaged], chance, 0), *said[damaged + 1 :]]:
                    caller.sendall(pdu)
                caller.shutdown(socket.SHUT_WR)
                while caller.recv(65536):
                    pass
        wait_until(lambda: len(conversation(port, 2)) > 2, 60, "a sound association")
        wait_until(lambda: not running.receiver._server.active_associations, 60, "the damaged ones to end")  # type: ignore[union-attr]
        damaged = running.counters.figures()["refused"]["pdu"]
        with socket.create_connection(("127.0.0.1", port), 60.0) as caller:
            caller.sendall(said[0])
            assert answer(caller)[:1] == ACCEPTED
            caller.sendall(NO_COMMAND)
            assert answer(caller) == ABORTED
        assert running.counters.figures()["refused"]["pdu"] == damaged + 1
        assert running.folders.item(f"{ROOT_UID}.3.2") in running.folders.inbox.items()
        assert running.alive


def answer(caller: socket.socket) -> bytes:
    """One PDU."""
    with caller.makefile("rb") as file:
        head = file.read(6)
        return head + file.read(int.from_bytes(head[2:], "big"))


def conversation(port: int, number: int) -> list[bytes]:
    """The PDUs by which a radiograph is sent, in their order."""
    said: list[bytes] = []
    node = AE("FUZZ")
    node.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    noted: list[Any] = [(evt.EVT_DATA_SENT, lambda event: said.append(event.data))]
    association = node.associate("127.0.0.1", port, ae_title="ALMENA", evt_handlers=noted)
    if association.is_established:
        association.send_c_store(dcmread(BytesIO(instance(number))))
        association.release()
    return said
