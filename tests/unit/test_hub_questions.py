"""What the console asks of events is answered in full, page by page, whichever way the store takes; and the benches of large fleets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, select

from fleet.bench import growth
from fleet.bench.fill import YEAR_S, fill
from fleet.bench.questions import measure_questions, questions
from fleet.store import queries
from fleet.store.database import connect
from fleet.store.tables import devices, events
from tests.fakes.hub_store import SPOOL

pytestmark = pytest.mark.unit

DEVICES, EVENTS = 120, 4000


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('filled') / 'hub.sqlite'}")
    fill(engine, DEVICES, EVENTS)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def everything(filled: Engine) -> list[Any]:
    """Site and event, newest first."""
    query = select(devices.c.site, events).join(devices, devices.c.device == events.c.device)
    with filled.connect() as connection:
        return list(connection.execute(query.order_by(events.c.at.desc(), events.c.id.desc())))


NOW = time.time()
WANTED = {what: wanted for what, (path, wanted) in questions(NOW).items() if path == "events"}


@pytest.mark.parametrize("what", WANTED)
def test_every_page_of_every_question_is_what_a_look_at_all_rows_gives(filled: Engine, everything: list[Any], what: str) -> None:
    def fits(row: Any) -> bool:
        given = dict(WANTED[what])
        since, until = given.pop("since", NOW - 2 * YEAR_S), given.pop("until", NOW + YEAR_S)
        return since <= row.at < until and all(getattr(row, name) == value for name, value in given.items())

    expected = [row.id for row in everything if fits(row)][:75]
    found: list[Any] = []
    before = None
    with filled.connect() as connection:
        for _ in range(3):
            found += (page := queries.event_list(connection, **WANTED[what], limit=25, before=before))
            before = (page[-1]["at"], page[-1]["number"]) if page else before
    assert list(dict.fromkeys(one["number"] for one in found)) == expected


def test_events_of_one_moment_stand_as_their_device_has_numbered_them() -> None:
    came = [(5.0, "b", 9), (7.0, "a", 11), (7.0, "a", 9), (7.0, "b", 100), (7.0, "a", 10)]
    page = [{"at": at, "device": device, "id": f"{device}/{SPOOL}/{seq}"} for at, device, seq in came]
    assert [(one["device"], int(one["id"].split("/")[2])) for one in queries.in_order(page)] == [
        ("b", 100),
        ("a", 11),
        ("a", 10),
        ("a", 9),
        ("b", 9),
    ]


def test_the_bench_asks_them_all(filled: Engine) -> None:
    result = measure_questions(str(filled.url), DEVICES, EVENTS)
    assert result["seconds"].keys() == questions(NOW).keys()


def test_growth_is_a_table_and_a_plot() -> None:
    rows = [
        {"devices": size, "cpu_us_per_message": 200.0, "memory_mb": 80.0, "alerts_ms": size / 100, "list_ms": 20.0} for size in growth.SIZES
    ]
    assert growth.table(rows).splitlines()[-1].split(" | ")[0] == "  10000"
    drawn = growth.plot(rows)
    assert drawn.count("<polyline") == len(growth.LINES)
    assert ">10,000<" in drawn
