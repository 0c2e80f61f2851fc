"""What the fleet's tools say before a certificate of CA, broker or hub ends; and whose the files are that root writes for a service."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent.settings_file import write_key
from provisioning import broker, ca
from provisioning.broker import write_configuration
from provisioning.errors import FleetError
from provisioning.register import Register
from provisioning.settings import BrokerSettings, Fleet, FleetSettings
from provisioning.upkeep import Upkeep, ending

pytestmark = pytest.mark.unit

PASSPHRASE = "correct horse battery"
DAY = timedelta(days=1)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(ca, "KDF_ROUNDS", 1000)
    settings = FleetSettings(url="https://localhost:8643", broker=BrokerSettings(host="localhost", hubs=2, user="root"))
    return Fleet.make(tmp_path / "fleet", settings, PASSPHRASE, external=False)


@pytest.fixture
def register(fleet: Fleet, tmp_path: Path) -> Iterator[Register]:
    with closing(Register(fleet.folder / "register.sqlite")) as one:
        write_configuration(tmp_path / "broker", fleet.settings.broker, fleet.authority(PASSPHRASE), one)
        yield one


def test_what_ends_soon_is_said_with_what_to_do(fleet: Fleet, register: Register, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime.now(timezone.utc)
    fleet.remember_broker(tmp_path / "broker")
    assert ending(fleet, register, now) == []
    hubs = ending(fleet, register, now + 340 * DAY)
    again = f"run `almena fleet broker-config {tmp_path / 'broker'}`, and"
    assert [text.partition(" on ")[0] for text in hubs] == ["the certificate of hub ends", "the certificate of hub.2 ends"]
    assert all(f"{again} give the hub its new file" in text for text in hubs)
    broker, *ended = ending(fleet, register, now + 800 * DAY)
    assert broker.startswith("the certificate of the broker ends on ")
    assert broker.endswith(f"{again} start the broker anew")
    assert len(ended) == 2
    assert "the certificate of hub ended on " in ended[0]
    of_ca = ending(fleet, register, now + 3300 * DAY)[0]
    assert of_ca.startswith("the CA's certificate ends on ")
    assert "`almena fleet init --dir ANOTHER`" in of_ca
    short = fleet.authority(PASSPHRASE).client("hub", 20 * DAY)
    register.add(short.certificate, "fleet", b"")
    upkeep = Upkeep(fleet, register)
    with caplog.at_level(logging.WARNING):
        upkeep.look()
        upkeep.look()
    assert [record.message.partition(" on ")[0] for record in caplog.records] == ["the certificate of hub ends"], "once a day"


def test_the_folder_of_a_broker_is_its_users_alone(register: Register, tmp_path: Path) -> None:
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("broker", "broker/state")} == {0o700}


def test_the_list_of_a_new_configuration_waits_for_a_revocation(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds the next one up: of two lists at once, the later one has all that is revoked."""
    write, held = broker.write_private, []

    def looked(path: Path, *given: Any, **more: Any) -> None:
        if path.name == "crl.pem":
            with (
                closing(sqlite3.connect(tmp_path / "held.sqlite", timeout=0)) as other,
                pytest.raises(sqlite3.OperationalError, match="locked"),
            ):
                other.execute("BEGIN IMMEDIATE")
            held.append(path)
        write(path, *given, **more)

    monkeypatch.setattr(broker, "write_private", looked)
    with closing(Register(tmp_path / "held.sqlite")) as register:
        write_configuration(tmp_path / "other", fleet.settings.broker, fleet.authority(PASSPHRASE), register)
    assert len(held) == 1


def test_the_state_of_a_broker_that_is_a_link_is_not_given_away(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state").symlink_to(theirs)
    monkeypatch.setattr(broker, "_owner", lambda _: (os.geteuid(), os.getegid()))
    with closing(Register(tmp_path / "held.sqlite")) as register, pytest.raises(FleetError):
        write_configuration(tmp_path / "other", fleet.settings.broker, fleet.authority(PASSPHRASE), register)
    assert theirs.stat().st_mode & 0o777 == 0o755


def test_what_root_writes_for_a_service_belongs_to_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca, "KDF_ROUNDS", 1000)
    given: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda file, user, group: given.__setitem__(os.readlink(f"/proc/self/fd/{file}"), (user, group)))
    settings = FleetSettings(url="https://localhost:8643", broker=BrokerSettings(host="localhost"))
    made = Fleet.make(tmp_path / "fleet", settings, PASSPHRASE, external=False)
    Register(made.folder / "register.sqlite").close()
    owner = (made.folder.stat().st_uid, made.folder.stat().st_gid)
    assert len(given) == 4
    assert set(given.values()) == {owner}


def test_a_link_that_takes_the_place_of_what_root_writes_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns the folder of the fleet watches it, and could have root give any file away, or open it to all."""
    theirs, folder = tmp_path / "theirs", tmp_path / "fleet"
    theirs.write_text("name: theirs\n")
    theirs.chmod(0o600)
    folder.mkdir()
    settings = folder / "fleet.yaml"
    settings.write_text("broker:\n  host: a\n")
    if os.geteuid() == 0:
        os.chown(folder, 12345, 54321)
        os.chown(settings, 12345, 54321)

    def swapped(part: Path) -> None:
        part.rename(folder / "taken")
        part.symlink_to(theirs)

    write_key(settings, "broker", "host", "b", swapped)
    fchmod = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda file, mode: (swapped(Path(os.readlink(f"/proc/self/fd/{file}"))), fchmod(file, mode)))
    ca.write_private(folder / "crl.pem", b"list", 0o644)
    there = theirs.stat()
    assert (there.st_uid, there.st_gid, there.st_mode & 0o777, theirs.read_text()) == (os.geteuid(), os.getegid(), 0o600, "name: theirs\n")


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("end", ["", "-wal"])
def test_a_register_that_is_a_link_is_not_followed(tmp_path: Path, end: str, there: bool) -> None:
    """Who owns the fleet's folder could have root make, write or give away any file."""
    register, elsewhere = tmp_path / "fleet" / f"register.sqlite{end}", tmp_path / "elsewhere"
    register.parent.mkdir()
    register.symlink_to(elsewhere)
    if there:
        elsewhere.write_bytes(b"")
    with pytest.raises(FleetError, match=rf"register\.sqlite{end}: a link, which is not followed; put the file itself there"):
        Register(tmp_path / "fleet" / "register.sqlite")
    assert elsewhere.exists() == there
    assert not there or elsewhere.read_bytes() == b""
    assert [path.name for path in register.parent.iterdir()] == [register.name]
