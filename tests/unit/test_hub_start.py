"""What the hub and its command line say where they cannot go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from agent.errors import AlmenaError, SettingsError, UsageError
from fleet import client, hub, show
from fleet.settings import HubSettings
from fleet.store.database import connect, migrate, writing
from fleet.store.sole import sole_hub
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


def test_a_file_that_cannot_be_written_is_named_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = f"sqlite:///{tmp_path}/file/hub.sqlite"
    with pytest.raises(SettingsError, match=r"store: .*file"), sole_hub(store):
        pass
    with pytest.raises(SettingsError, match=r"store: .*file"):
        connect(store)


@pytest.mark.parametrize(
    "url", ["hub", "http://[::1", "http://127.0.0.1:80a/", "http://127.0.0.1:99999/", f"https://{'a' * 70}.é/", "https://:1/"]
)
def test_an_address_that_is_none_is_named_with_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv(client.URL, url)
    with pytest.raises(SettingsError, match=r"url: (this|must begin)"):
        client.access()


@pytest.mark.parametrize("key", ["ä", "a\nb", "a b", " ", "\x7f"])
def test_a_key_that_was_not_copied_well_is_told_as_such(key: str) -> None:
    with pytest.raises(UsageError, match=r"ALMENA_HUB_KEY.* copy it again"):
        client.HubClient(client.HubAccess(key=SecretStr(key)))


def test_a_time_that_no_calendar_has_is_shown() -> None:
    assert show.moment(-1e308)[-15:] == show.moment(-1e30)[-15:]
    assert show.moment(1e308).startswith("9999-")
