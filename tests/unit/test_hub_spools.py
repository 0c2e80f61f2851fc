"""Numbers run on from one spool of an outbox to the next: what is missing between two of them is seen.

tests/integration/test_hub_postgres.py runs it on PostgreSQL.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.store import device_rows, queries, spools
from fleet.store.database import alembic, connect, migrate, writing
from tests.fakes.hub_store import EVENTS, LOSSES, NOW, OUTBOX, SPOOL, StoredHub, message, other

pytestmark = pytest.mark.unit

FIRST, SECOND, THIRD, FOURTH = (letter * 16 for letter in "abcd")
NEW = "1" * 16


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StoredHub]:
    one = StoredHub(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    yield one
    one.store.close()


def event(spool: str, number: int, outbox: str = OUTBOX) -> tuple[str, bytes]:
    """An event of a spool."""
    return EVENTS, message(1, id=f"dev-9/{spool}/{number}", outbox=outbox)


def events(hub: StoredHub, spool: str, first: int, last: int, now: float = NOW, outbox: str = OUTBOX) -> None:
    """Events `first` to `last` of a spool, in one batch."""
    hub.write(*(event(spool, number, outbox) for number in range(first, last + 1)), now=now)


def declared(spool: str, low: int, high: int, number: int = 1, outbox: str = OUTBOX) -> tuple[str, bytes]:
    """A loss record."""
    data = {
        "lane": "event",
        "spool": spool,
        "reason": "evicted",
        "count": high - low + 1,
        "ranges": [[low, high]],
        "since": NOW,
        "until": NOW,
    }
    return LOSSES, other("loss", number, data, outbox=outbox)[1]


def give_up(hub: StoredHub) -> None:
    """All that is missing counts as lost."""
    with writing(hub.store.engine) as connection:
        lanes = spools.give_up(connection, "dev-9", NOW + 100)
        device_rows.count_losses(connection, {"dev-9": sum(lanes.values())})


def losses(hub: StoredHub) -> int:
    """How many the device has lost."""
    return int(hub.sql("SELECT losses FROM devices WHERE device = 'dev-9'")[0][0])


def missing(hub: StoredHub) -> list[Any]:
    """Spool, numbers, and since when."""
    with hub.store.engine.connect() as connection:
        found = queries.losses(connection, "dev-9")
    assert found["missing_total"] == sum(one["count"] for one in found["missing"])
    assert all(one["count"] == sum(high - low + 1 for low, high in one["ranges"]) for one in found["missing"])
    return [(one["spool"], one["ranges"], one["since"]) for one in found["missing"]]


def test_what_is_lost_between_two_spools_is_missing(hub: StoredHub) -> None:
    events(hub, FIRST, 1, 5)
    events(hub, SECOND, 10, 12, now=NOW + 10)
    assert missing(hub) == [(FIRST, [(6, 9)], NOW + 10)]
    events(hub, SECOND, 8, 9, now=NOW + 20)
    assert missing(hub) == [(FIRST, [(6, 7)], NOW + 10)], "some came late, of the later spool"
    events(hub, FIRST, 6, 6, now=NOW + 30)
    assert missing(hub) == [(FIRST, [(7, 7)], NOW + 30)], "one came late, of the earlier spool"
    hub.write(declared(FIRST, 7, 7))
    assert missing(hub) == []


def test_a_spool_that_is_heard_of_late_takes_its_place_between_two(hub: StoredHub) -> None:
    events(hub, FIRST, 1, 5)
    events(hub, THIRD, 13, 15, now=NOW + 10)
    hub.write(declared(SECOND, 9, 12), now=NOW + 20)
    assert missing(hub) == [(FIRST, [(6, 8)], NOW + 10)]
    hub.write(declared(SECOND, 6, 7, number=2), now=NOW + 30)
    assert missing(hub) == [(SECOND, [(8, 8)], NOW + 30)]
    events(hub, FOURTH, 17, 17, now=NOW + 40)
    assert missing(hub) == [(SECOND, [(8, 8)], NOW + 30), (THIRD, [(16, 16)], NOW + 40)]


def test_an_outbox_that_is_made_anew_is_followed_from_there_whatever_comes_first(hub: StoredHub) -> None:
    events(hub, FIRST, 1, 30)
    events(hub, SECOND, 35, 40, outbox=NEW)
    assert missing(hub) == []
    events(hub, SECOND, 2, 34, outbox=NEW)
    hub.write(declared(SECOND, 1, 1, outbox=NEW))
    events(hub, THIRD, 43, 44, outbox=NEW, now=NOW + 3)
    assert missing(hub) == [(SECOND, [(41, 42)], NOW + 3)]
    events(hub, FOURTH, 5000, 5001, outbox="2" * 16, now=3600.0)
    assert missing(hub) == [(SECOND, [(41, 42)], NOW + 3)], "whenever that was, by whatever clock"


def test_a_later_spool_that_comes_first_does_not_hide_what_an_earlier_one_lacks(hub: StoredHub) -> None:
    events(hub, SECOND, 10, 12)
    events(hub, FIRST, 1, 5, now=NOW + 1)
    assert missing(hub) == [(FIRST, [(6, 9)], NOW + 1)]


def test_numbers_that_an_old_disk_gives_again_are_not_missing(hub: StoredHub) -> None:
    events(hub, FIRST, 1, 100)
    events(hub, SECOND, 51, 60)
    events(hub, THIRD, 103, 104, now=NOW + 1)
    assert missing(hub) == [(FIRST, [(101, 102)], NOW + 1)]
    events(hub, SECOND, 61, 101, now=NOW + 2)
    assert missing(hub) == [(SECOND, [(102, 102)], NOW + 2)]
    events(hub, SECOND, 103, 104)
    assert missing(hub) == [(SECOND, [(102, 102)], NOW + 2)]


def test_a_device_that_does_not_tell_its_outbox_has_no_gaps_between_spools(hub: StoredHub) -> None:
    events(hub, FIRST, 1, 5, outbox="")
    events(hub, SECOND, 10, 12, outbox="")
    assert missing(hub) == []
    events(hub, SECOND, 13, 13)
    events(hub, THIRD, 15, 15, now=NOW + 1)
    assert missing(hub) == [(SECOND, [(14, 14)], NOW + 1)], "it tells since an upgrade"


def test_what_was_given_up_between_two_spools_and_comes_in_the_later_one_is_lost_no_more(hub: StoredHub) -> None:
    events(hub, FIRST, 1, 5)
    events(hub, THIRD, 10, 12)
    give_up(hub)
    assert (losses(hub), missing(hub)) == (4, [])
    events(hub, THIRD, 9, 9)
    assert (losses(hub), missing(hub)) == (3, [])
    events(hub, SECOND, 7, 7)
    assert (losses(hub), missing(hub)) == (2, []), "8 is still given up, behind the second"
    hub.write(declared(SECOND, 8, 8))
    events(hub, FIRST, 6, 6)
    assert (losses(hub), missing(hub)) == (1, [])


def test_two_spools_of_one_batch_are_linked(hub: StoredHub) -> None:
    hub.write(event(SPOOL, 1), event(FIRST, 4), event(SECOND, 9))
    assert missing(hub) == [(SPOOL, [(2, 3)], NOW), (FIRST, [(5, 8)], NOW)]


def test_lanes_count_by_themselves_and_loss_records_are_not_followed_over_spools(hub: StoredHub) -> None:
    audit = {"action": "x", "actor": "device", "outcome": "done", "detail": {}}
    hub.write(other("audit", 1, audit, id=f"dev-9/{THIRD}/1", outbox=OUTBOX))
    events(hub, FIRST, 4, 5)
    late = json.loads(declared(FIRST, 7, 7)[1])["data"]
    hub.write(declared(FIRST, 6, 6), other("loss", 1, late, id=f"dev-9/{FOURTH}/1099511627777", outbox=OUTBOX))
    assert missing(hub) == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_comes_in_whatever_order_the_rest_is_missing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Of a device that starts again and again, twice with a new disk: of each outbox what neither came nor was declared, from the lowest to
    the highest that is known. Somebody may give up what is missing at any time."""
    rows = []
    for outbox in range(data.draw(st.integers(1, 3))):
        number = 0
        for place, length in enumerate(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))):
            rows += [(f"{outbox:016x}", f"{16 * outbox + place + 1:016x}", number + one) for one in range(1, length + 1)]
            number += length
    fate = data.draw(st.lists(st.sampled_from(("stored", "declared", "lost")), min_size=len(rows), max_size=len(rows)))
    come = [(*row, how) for row, how in zip(rows, fate, strict=True) if how != "lost"]
    acts = data.draw(st.permutations([*come, ("", "", 0, "given up"), ("", "", 0, "given up")]))
    hub = StoredHub(f"sqlite:///{tmp_path_factory.mktemp('hub') / 'hub.sqlite'}")
    stored: set[tuple[str, int]] = set()
    lost: set[tuple[str, int]] = set()

    def absent() -> set[tuple[str, int]]:
        found = set()
        for outbox in {outbox for outbox, _ in stored | lost}:
            known = [seq for one, seq in stored | lost if one == outbox]
            found |= {(outbox, seq) for seq in range(min(known), max(known) + 1)}
        return found - stored - lost

    records = itertools.count(1)
    for outbox, spool, seq, how in acts:
        if how == "given up":
            give_up(hub)
            lost |= absent()
        elif how == "declared":
            hub.write(declared(spool, seq, seq, number=next(records), outbox=outbox))
            lost.add((outbox, seq))
        else:
            hub.write(event(spool, seq, outbox))
            stored.add((outbox, seq))
            lost.discard((outbox, seq))
    gaps = [] if not stored | lost else missing(hub)
    count = losses(hub) if stored | lost else 0
    hub.store.close()
    owner = {spool: outbox for outbox, spool, _ in rows}
    found = [(owner[spool], seq) for spool, ranges, _ in gaps for low, high in ranges for seq in range(low, high + 1)]
    assert sorted(found) == sorted(absent())
    assert count == len(lost)


def test_spools_of_an_earlier_version_stay_as_they_are(tmp_path: Path) -> None:
    """Nobody knows whether they are of one outbox."""
    engine = connect(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    with writing(engine) as connection:
        command.upgrade(alembic(connection), "0008")
        connection.exec_driver_sql("INSERT INTO devices (device) VALUES ('dev-9')")
        for spool, ranges, count in ((FIRST, [[5000, 6000]], 0), (SECOND, [[1, 3], [5, 50]], 1)):
            row = ("dev-9", spool, "event", json.dumps(ranges), count, NOW if count else None)
            connection.exec_driver_sql(
                "INSERT INTO spools (device, spool, lane, ranges, missing, missing_since) VALUES (?, ?, ?, ?, ?, ?)", row
            )
    migrate(engine)
    hub = StoredHub(engine)
    assert missing(hub) == [(SECOND, [(4, 4)], NOW)]
    events(hub, SECOND, 51, 60)
    events(hub, THIRD, 63, 63, now=NOW + 1)
    assert missing(hub) == [(SECOND, [(4, 4), (61, 62)], NOW)]
    hub.store.close()
