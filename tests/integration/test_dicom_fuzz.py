"""Damaged files: each is refused, becomes a picture, or has a reason; where a codec crashes, only its worker ends."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.dicom.counters import Counters
from agent.dicom.reading import UnusableError, identify, inflated
from agent.dicom.workshop import Workshop
from agent.studies import StudyFolders, StudyInstance
from tests.fakes.radiographs import instance, phantom

KNOWN = {
    "crash", "damaged", "own-result", "no-pixels", "colour", "multi-frame", "bits", "size", "truncated", "codec", "window", "memory",
}  # fmt: skip
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
    return found


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut out, repeated, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(132, len(changed)) if chance.random() < 0.7 else chance.randrange(132, min(len(changed), 1500))
        kind = chance.randrange(5)
        if kind < 2:
            changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            changed[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xfe\xff\x00\xe0"))
        elif kind == 3:
            del changed[place : place + chance.randrange(1, 9)]
        else:
            changed[place:place] = changed[place : place + chance.randrange(1, 64)]
        if len(changed) < 1000:
            break
    return bytes(changed[: chance.randrange(140, len(changed))] if chance.random() < 0.1 else changed)


@pytest.mark.parametrize("seconds", [30, pytest.param(600, marks=pytest.mark.soak)])
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
            folders.inbox.remove(item)
            folders.pictures.remove(item)
        item = folders.item("sound")
        folders.write_instance(StudyInstance(item, originals[0], time.time(), time.monotonic_ns()))
        assert workshop._outcome("decode", item) == {}, "the next worker goes on"
    finally:
        workshop._end_worker()
    print(number, dict(outcomes))
    assert len(outcomes) > 3
    assert outcomes["a picture"] > 0
    assert set(outcomes) <= KNOWN | AT_THE_DOOR | {"a picture"}
