"""The hub's store on a real PostgreSQL: all that holds on SQLite, and several hubs beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import insert, text

from fleet import duty
from fleet.alerts.herald import Herald
from fleet.alerts.watch import Watch
from fleet.identities import ledger
from fleet.settings import AlertSettings
from fleet.store import device_rows, erasure, pictures
from fleet.store.backup import backup, restore
from fleet.store.database import writing
from fleet.store.tables import events, metadata
from tests.fakes.fleet import DEVICE, Process, Producer, load, peer, write_settings
from tests.fakes.hostile import hostile
from tests.fakes.hub_api import Postbox
from tests.fakes.hub_store import EVENTS, NOW, SPOOL, StoredHub, message, other
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.postgres import Postgres
from tests.integration.test_mqtt_kills import Flow
from tests.unit.test_hub_backup import (  # noqa: F401 - the same test, with the fixture of this file
    content,
    fill,
    test_migrations_make_the_tables_of_this_version,
)
from tests.unit.test_hub_identities import (  # noqa: F401 - the same tests, with the fixture of this file
    test_a_box_goes_once_it_is_taken_and_is_sealed_again_for_who_has_lost_it,
    test_a_box_is_taken_from_its_origin_alone_and_given_to_its_recipient_alone,
    test_a_site_that_shares_no_longer_and_a_device_of_another_keep_nothing_of_others,
    test_from_the_enrolment_to_the_last_receipt_of_a_device_that_was_away,
    test_who_has_to_do_with_a_device_that_moves_is_told,
    test_whose_time_is_over_and_whom_an_old_copy_of_the_database_brought_back_are_erased,
)
from tests.unit.test_hub_spools import (  # noqa: F401 - the same tests, with the fixture of this file
    test_a_later_spool_that_comes_first_does_not_hide_what_an_earlier_one_lacks,
    test_a_spool_that_is_heard_of_late_takes_its_place_between_two,
    test_an_outbox_that_is_made_anew_is_followed_from_there_whatever_comes_first,
    test_lanes_count_by_themselves_and_loss_records_are_not_followed_over_spools,
    test_numbers_that_an_old_disk_gives_again_are_not_missing,
    test_two_spools_of_one_batch_are_linked,
    test_what_is_lost_between_two_spools_is_missing,
    test_what_was_given_up_between_two_spools_and_comes_in_the_later_one_is_lost_no_more,
)
from tests.unit.test_hub_store import (  # noqa: F401 - the same tests, with the fixture of this file
    test_a_lease_ends_and_any_word_begins_it_again,
    test_a_repeat_is_stored_but_another_message_under_the_number_is_refused,
    test_a_row_that_the_database_cannot_take_is_told_as_such_and_takes_the_others_with_it,
    test_a_sample_out_of_all_time_and_a_name_that_is_none_are_rolled_up_too,
    test_dead_letters_and_replies_are_bounded,
    test_events_are_kept_as_long_as_the_settings_say_since_they_came,
    test_impossible_numbers_are_dead_letters,
    test_losses_count_once_and_not_what_comes_all_the_same,
    test_pictures_of_a_visit_go_with_the_person_however_late_they_and_their_events_come,
    test_rows_are_found_by_whole_keys,
    test_telemetry_becomes_minutes_and_hours,
    test_texts_that_a_database_cannot_index_are_cut,
    test_times_of_a_clock_that_was_wrong_are_corrected,
    test_who_is_erased_on_a_device_is_erased_here_too,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as one:
        yield one


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[StoredHub]:
    one = StoredHub(postgres.url())
    yield one
    one.store.close()


@pytest.fixture
def hub(server: StoredHub) -> StoredHub:
    """Empty."""
    with writing(server.store.engine) as connection:
        connection.execute(text(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)}"))
    return server


def test_two_hubs_store_the_same_at_once(hub: StoredHub) -> None:
    """Devices in another order in each hub, all rows in both: none is stored twice, and neither hub waits for the other for ever."""
    others = [StoredHub(str(hub.store.engine.url.render_as_string(False))) for _ in range(2)]
    names = [f"dev-{number}" for number in range(20)]

    def store(one: StoredHub, order: list[str]) -> None:
        for first in range(1, 100, 5):
            numbers = range(first, first + 5)
            rows = [(f"almena/1/{name}/up/event/cam/count", message(n, id=f"{name}/{SPOOL}/{n}")) for name in order for n in numbers]
            one.write(*rows)

    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(store, one, order) for one, order in zip(others, (names, names[::-1]), strict=True)]
        for each in work:
            each.result(60)
    for one in others:
        one.store.close()
    assert hub.sql("SELECT device, count(*), max(seq) FROM events GROUP BY device ORDER BY device") == [
        (name, 100, 100) for name in sorted(names)
    ]
    assert set(hub.sql("SELECT ranges FROM spools")) == {("[[1, 100]]",)}


def waiting(hub: StoredHub) -> bool:
    """Whether somebody waits for a lock."""
    return hub.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(0,)]


def test_an_erasure_waits_for_a_hub_that_is_just_storing_what_names_the_person(hub: StoredHub) -> None:
    hub.take(EVENTS, message(1))
    values = {
        "device": "dev-9",
        "spool": SPOOL,
        "seq": 2,
        "stream": "cam",
        "kind": "face",
        "identity": "p-1",
        "at": NOW,
        "captured_at": NOW,
    }
    more = {"mono_ns": 5, "clock": "synced", "received_at": NOW, "payload": message(2, data={"identity": "p-1", "name": "Zacharias"})}

    def erase() -> None:
        with writing(hub.store.engine) as connection:
            ledger._blank(connection, "dev-9", "p-1")

    with ThreadPoolExecutor(1) as pool:
        with writing(hub.store.engine) as other:
            device_rows.lock(other, {"dev-9": NOW})
            other.execute(insert(events).values({**values, **more}))
            erased = pool.submit(erase)
            wait_until(lambda: waiting(hub), 10, "the erasure to wait")
        erased.result(30)
    assert hub.said()[2] == {"identity": None, "name": None}


def test_a_picture_waits_for_an_erasure_that_is_under_way(hub: StoredHub) -> None:
    data = {"identity": "p-1", "name": "Zacharias", "decision": "known", "track": "t-1"}
    hub.take(EVENTS, message(1, data=data))

    def keep() -> None:
        with writing(hub.store.engine) as connection:
            pictures.keep(connection, "dev-9", SPOOL, 1, b"jpeg", NOW)

    with ThreadPoolExecutor(1) as pool:
        with writing(hub.store.engine) as other:
            device_rows.lock(other, {"dev-9": NOW})
            erasure.scrub(other, "dev-9", "p-1")
            kept = pool.submit(keep)
            wait_until(lambda: waiting(hub), 10, "the picture to wait")
        with pytest.raises(pictures.TooLateError):
            kept.result(30)
    assert hub.sql("SELECT count(*) FROM pictures") == [(0,)]


def test_one_alert_that_cannot_be_stored_does_not_silence_the_others(hub: StoredHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NUL, which PostgreSQL cannot keep; past what replaces it the alert itself is refused."""
    engine = hub.store.engine
    watch = Watch(engine, Postbox(), Herald(engine, AlertSettings()), 5.0, grace_s=0)

    def look(seconds: float) -> None:
        streams = [{"stream": "c\0", "state": "failed", "code": "X\0Y"}, {"stream": "door", "state": "failed", "code": "STREAM_DOWN"}]
        sample = {"at": NOW + seconds, "vision": {"streams": streams}}
        hub.write(other("telemetry", int(seconds) + 1, {"samples": [sample]}, captured_at=NOW + seconds), now=NOW + seconds)
        watch.look(NOW + seconds)

    monkeypatch.setattr("fleet.alerts.rules.clean", lambda text, _letters: text)
    look(0)
    look(130)
    assert hub.sql("SELECT stream, detail FROM alerts") == [("door", "STREAM_DOWN")]
    monkeypatch.undo()
    look(200)
    look(330)
    assert hub.sql("SELECT stream, detail FROM alerts ORDER BY id") == [("door", "STREAM_DOWN"), ("c\ufffd", "X\ufffdY")]


def test_a_hub_whose_clock_is_ahead_takes_no_duty_from_another(hub: StoredHub, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, worked = hub.store.engine, threading.Event()
    looked: list[float] = []

    def monotonic() -> float:
        looked.append(time.monotonic())
        return looked[-1]

    with writing(engine) as connection:
        connection.execute(text("INSERT INTO duties VALUES ('tell', 'another', extract(epoch FROM now()) + 50)"))
    ahead = SimpleNamespace(time=lambda: time.time() + 86400, monotonic=monotonic, thread_time=time.thread_time)
    monkeypatch.setattr(duty, "time", ahead)
    one = duty.Duty(engine, "tell", 0.05, lambda _now: worked.set())
    one.start()
    wait_until(lambda: len(looked) > 4, 30, "it to have looked")
    assert not worked.is_set(), "two of one duty"
    with writing(engine) as connection:
        connection.execute(text("DELETE FROM duties"))
    assert worked.wait(60)
    one.stop()


def test_a_backup_goes_from_one_kind_of_database_to_the_other(hub: StoredHub, postgres: Postgres, tmp_path: Path) -> None:
    fill(hub)
    rows = backup(hub.store.engine, tmp_path / "1.gz")
    sqlite, second = StoredHub(f"sqlite:///{tmp_path / 'hub.sqlite'}"), StoredHub(postgres.url("second"))
    assert restore(sqlite.store.engine, tmp_path / "1.gz") == rows == backup(sqlite.store.engine, tmp_path / "2.gz")
    assert restore(second.store.engine, tmp_path / "2.gz") == rows
    assert content(hub) == content(sqlite) == content(second)
    second.take(EVENTS, message(4))
    assert second.sql("SELECT count(DISTINCT id) FROM events") == [(4,)]
    sqlite.store.close()
    second.store.close()


@dataclass
class Site:
    """A broker, a device that makes events, and hubs as processes of their own on one database."""

    folder: Path
    url: str
    broker: Mosquitto
    producer: Producer
    store: StoredHub

    def hub(self, name: str, *options: str) -> Process:
        """One that is not started yet."""
        where = ("--port", str(self.broker.port), "--store", self.url, "--client-id", name)
        return Process(self.folder / name, "fleet.ingest", *where, *options)

    def count(self) -> int:
        """Events that are stored."""
        return int(self.store.sql("SELECT count(*) FROM events")[0][0])

    def all_is_there(self) -> None:
        """Every event once, and nothing that the device still waits for."""
        wait_until(lambda: self.count() >= self.producer.produced and not self.producer.pending(), 60, "every event to be settled")
        assert sorted(data["n"] for data in self.store.said(DEVICE).values()) == list(range(self.producer.produced))


@pytest.fixture
def site(tmp_path: Path, hub: StoredHub) -> Iterator[Site]:
    with Mosquitto(tmp_path / "broker") as broker:
        path = write_settings(tmp_path, broker.port, delivery="hub")
        producer = Producer(load(path))
        url = hub.store.engine.url.set(drivername="postgresql").render_as_string(False)
        with Process(tmp_path, "tests.fakes.uplinks", str(path)):
            yield Site(tmp_path, url, broker, producer, hub)
        producer.close()


def test_a_database_that_is_down_is_waited_for(site: Site, postgres: Postgres) -> None:
    with site.hub("hub") as hub:
        site.producer.add(500)
        wait_until(lambda: site.count() >= 100, 30, "the first events")
        postgres.kill()
        site.producer.add(1500)
        wait_until(lambda: "the store takes nothing" in hub.log(), 30, "the hub to say so")
        postgres.start()
        site.store.store.engine.dispose()
        site.all_is_there()
        wait_until(lambda: "the store takes messages again" in hub.log(), 10, "the hub to say so")


def test_one_of_two_hubs_is_killed_under_load(site: Site) -> None:
    one, other = (site.hub(name, "--share", "hubs") for name in ("hub-a", "hub-b"))
    with peer(site.broker.port, "almena/1/hub/state") as listener, one, other:
        wait_until(lambda: "connected to" in one.log() and "connected to" in other.log(), 30, "both hubs")
        with Flow(site.producer):
            wait_until(lambda: site.count() >= 300, 30, "the first events")
            one.kill()
            goal = site.count() + 300
            wait_until(lambda: site.count() >= goal, 60, "more events")
        site.all_is_there()
        wait_until(lambda: [said.data["state"] for said in listener.on("hub/state")][-2:] == ["offline", "online"], 10, "the other's word")


def test_whatever_a_device_sends_does_not_end_it(hub: StoredHub) -> None:
    for topic, payload in hostile(seed=11, count=300):
        hub.take(topic, payload)
    assert hub.sql("SELECT count(*) > 0 FROM dead_letters") == [(True,)]
    hub.take(EVENTS, message(1, clock="unsynced", mono_ns=-(2**62)))
    hub.take(*other("clock", 1, {"mono_ns": 2**62 + 2**61, "wall": NOW}))
    assert hub.sql(f"SELECT at < {NOW} FROM events WHERE device = 'dev-9'") == [(True,)]
