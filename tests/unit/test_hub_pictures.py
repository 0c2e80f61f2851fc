"""Pictures in the hub's store: with their events, bounded, and gone with whoever is erased."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update

from agent.errors import UnknownError
from fleet.settings import RetentionSettings
from fleet.store import pictures, queries
from fleet.store.care import purge
from fleet.store.database import connect, migrate, writing
from fleet.store.erasure import scrub
from fleet.store.pictures import TooEarlyError, TooLateError
from fleet.store.tables import erased_visits, events, spools
from tests.fakes.face_events import face_data

pytestmark = pytest.mark.unit

SPOOL = "00112233445566aa"
JPEG = b"\xff\xd8\xff a picture"
NOW = 1_795_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Connection]:
    engine = connect(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    migrate(engine)
    with writing(engine) as connection:
        yield connection
    engine.dispose()


def event(store: Connection, seq: int, track: str, name: str | None = None, device: str = "cam") -> None:
    data = face_data("update", name, NOW, track=track, **({"identity": f"p-{name}"} if name else {}))
    row = {"device": device, "spool": SPOOL, "seq": seq, "stream": "door", "kind": "face", "at": NOW, "captured_at": NOW, "mono_ns": seq}
    payload = json.dumps({"kind": "face", "data": data}).encode()
    store.execute(insert(events).values(**row, clock="synced", received_at=NOW, payload=payload, identity=data["identity"]))


def keep(store: Connection, seq: int, now: float = NOW, device: str = "cam") -> None:
    pictures.keep(store, device, SPOOL, seq, JPEG, now)


def shown(store: Connection) -> list[int]:
    """The numbers of events that have a picture."""
    found = pictures.marked(store, queries.event_list(store, limit=1000))
    return sorted(int(one["id"].split("/")[2]) for one in found if one["picture"])


def test_a_picture_waits_for_its_event_and_comes_too_late_for_one_that_is_gone(store: Connection) -> None:
    with pytest.raises(TooEarlyError):
        keep(store, 1)
    store.execute(insert(spools).values(device="cam", spool=SPOOL, ranges="[[1, 3]]"))
    with pytest.raises(TooLateError):
        keep(store, 3)
    event(store, 4, "t-1")
    keep(store, 4)
    keep(store, 4)
    assert shown(store) == [4]
    assert pictures.jpeg_of(store, "cam", SPOOL, 4) == JPEG
    with pytest.raises(UnknownError):
        pictures.jpeg_of(store, "other", SPOOL, 4)


def test_with_a_person_all_pictures_of_their_visits_go_and_none_comes_afterwards(store: Connection) -> None:
    event(store, 1, "t-1")
    event(store, 2, "t-1", "Ada")
    event(store, 3, "t-2", "Grace")
    event(store, 4, "t-3", "Ada")
    for seq in (1, 2, 3):
        keep(store, seq)
    event(store, 5, "t-1")
    scrub(store, "cam", "p-Ada")
    assert shown(store) == [3]
    for late in (4, 5):
        with pytest.raises(TooLateError, match="erased"):
            keep(store, late)
    event(store, 6, "t-1", device="other")
    keep(store, 6, device="other")
    purge(store, RetentionSettings(), time.time() + 10 * 366 * 86400.0)
    assert store.execute(select(erased_visits)).all() == []


def test_pictures_end_before_their_events_and_are_bounded_for_each_device(store: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_OF_EVENTS", 3)
    monkeypatch.setattr(pictures, "MOST_SNAPSHOTS", 2)
    for seq in range(1, 6):
        event(store, seq, f"t-{seq}")
        keep(store, seq, NOW + seq)
        pictures.keep_snapshot(store, "cam", f"s-{seq}", "door", NOW + 1e9, JPEG, NOW + seq)
    event(store, 1, "t", device="other")
    keep(store, 1, device="other")
    assert shown(store) == [1, 3, 4, 5]
    assert [(one["id"], one["at"]) for one in pictures.snapshots(store, "cam")] == [("s-5", NOW + 5), ("s-4", NOW + 4)]
    store.execute(update(events).values(received_at=NOW + 100))
    purge(store, RetentionSettings(pictures_s=95), NOW + 99.5)
    assert shown(store) == [5]
    assert len(queries.event_list(store, limit=100)) == 6
