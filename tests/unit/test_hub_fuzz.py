"""Whatever a device sends: nothing ends the hub, and each message is stored or a dead letter with a reason."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.alerts.herald import Herald
from fleet.alerts.watch import Watch
from fleet.settings import SQLITE, AlertSettings
from fleet.store.care import Care
from tests.fakes.hostile import EVIL, hostile, message
from tests.fakes.hub_api import Postbox
from tests.fakes.hub_store import LOSSES, NOW, StoredHub, loss

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredHub]:
    hub = StoredHub(f"{SQLITE}{tmp_path_factory.mktemp('hub') / 'hub.sqlite'}")
    yield hub
    hub.store.close()


def fate(hub: StoredHub, topic: str, payload: bytes) -> str:
    """What became of a message."""
    before = hub.sql("SELECT coalesce(sum(times), 0) FROM dead_letters")[0][0]
    ack = hub.take(topic, payload)
    if hub.sql("SELECT coalesce(sum(times), 0) FROM dead_letters")[0][0] > before:
        assert hub.sql("SELECT count(*) FROM dead_letters WHERE reason = ''") == [(0,)]
        return "dead"
    if "/up/event/" in topic or topic.endswith(("audit", "loss", "clock", "telemetry")):
        seq = int(json.loads(payload)["id"].split("/")[2])
        assert ack is not None
        assert seq <= ack.upto or any(low <= seq <= high for low, high in ack.ranges)
    elif topic.endswith(("status", "reported")) and payload:
        assert hub.sql(f"SELECT count(*) FROM devices WHERE device = '{EVIL}'") == [(1,)]
    return "stored"


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_every_message_is_stored_or_a_dead_letter(hub: StoredHub, chance: random.Random) -> None:
    fate(hub, *message(chance))


def test_there_are_many_of_both(hub: StoredHub) -> None:
    fates = [fate(hub, topic, payload) for topic, payload in hostile(seed=6, count=150)]
    assert min(fates.count("stored"), fates.count("dead")) > 25


def test_what_looks_at_them_later_bears_them_all(hub: StoredHub, caplog: pytest.LogCaptureFixture) -> None:
    engine = hub.store.engine
    watch = Watch(engine, Postbox(), Herald(engine, AlertSettings()), 5.0, grace_s=0.0)
    for second, (topic, payload) in enumerate(hostile(seed=8, count=100)):
        hub.take(topic, payload, NOW + 10 * second)
        watch.look(NOW + 10 * second)
    for number in (1, 2):
        hub.take(LOSSES, loss(number=number, count=2**63 - 1), NOW + 5000)
    watch.look(NOW + 5000)
    said = hub.sql("SELECT detail FROM alerts WHERE device = 'dev-9'")
    assert said == [("2000000000000 events were declared as lost within an hour",)]
    assert hub.sql("SELECT count(*) FROM alerts") != [(1,)]
    assert hub.sql("SELECT count(*) FROM samples") != [(0,)]
    Care(engine).round(NOW + 10_000)
    assert hub.sql("SELECT count(*) FROM samples WHERE NOT rolled") == [(0,)]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.soak
def test_a_hundred_thousand_messages(hub: StoredHub) -> None:
    for topic, payload in hostile(seed=7, count=100_000):
        fate(hub, topic, payload)
