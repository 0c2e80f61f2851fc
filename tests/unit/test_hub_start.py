"""What the hub and its command line say where they cannot go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from agent.errors import AlmenaError
from fleet import hub, show
from fleet.settings import HubSettings
from fleet.store.database import connect, migrate, writing
from tests.fakes.ports import free_port

pytestmark = pytest.mark.unit


def test_a_database_of_a_newer_version_is_named(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    engine = connect(store)
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(AlmenaError, match=r"another version of Almena .*9999"):
        hub.Hub(HubSettings(store=store))


def test_a_postgresql_that_is_not_there_is_named() -> None:
    with pytest.raises(AlmenaError, match=r"cannot be used: .*127\.0\.0\.1.*; see that it runs"):
        hub.Hub(HubSettings(store=f"postgresql://x@127.0.0.1:{free_port()}/x"))


def test_a_time_that_no_calendar_has_is_shown() -> None:
    assert show.moment(-1e308)[-15:] == show.moment(-1e30)[-15:]
    assert show.moment(1e308).startswith("9999-")
