"""`almena join` against a real enrolment server: disks, settings, brokers and answers that fail on the way."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent import settings
from agent.commands.join import join
from agent.errors import SettingsError
from agent.identity import joining
from agent.identity.errors import IdentityError, NotAnsweredError
from agent.identity.folder import IdentityFolder
from agent.identity.joining import Joining
from agent.identity.keys import Pair
from agent.identity.protocol import Token
from agent.identity.renewal import renew
from agent.settings_file import write_sections
from provisioning.enrolment import AGAIN
from tests.fakes.fleet_site import FleetSite
from tests.fakes.ports import free_port
from tests.fakes.small_disk import fill, on_small_disk
from tests.waiting import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FleetSite]:
    with FleetSite(tmp_path / "fleet") as one:
        yield one


@pytest.mark.parametrize("there", ["nobody", "plain"])
def test_no_enrolment_server_there(there: str, tmp_path: Path) -> None:
    token = str(Token("cam-1", bytes(32), bytes(32)))
    url = f"https://127.0.0.1:{free_port()}" if there == "nobody" else "https://no-such-host.invalid"
    with pytest.raises(NotAnsweredError, match=r"check that `almena fleet enrol-server` runs|there is no host"):
        Joining(url, tmp_path / "almena.yaml", print).by_token(token)


def test_a_key_that_was_revoked_before_its_answer_came_is_in_nobodys_way(
    site: FleetSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "almena.yaml"
    with monkeypatch.context() as patch:
        patch.setattr(IdentityFolder, "joined", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.join(config)
    assert site.register.revoke("cam-1") == 1
    assert site.join(config).name == "cam-1"


@on_small_disk(4)
def test_a_full_disk_of_the_fleet_is_said_and_the_server_goes_on(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FleetSite(small_disk / "fleet") as site:
        token, config = site.token("cam-1"), tmp_path / "almena.yaml"
        filler = fill(small_disk)
        site.server._renew_at = 0.0
        site.server.look()
        assert "server.pem cannot be renewed (No space left on device): make room on the disk; it is tried again" in caplog.text
        with pytest.raises(NotAnsweredError, match=r"cannot answer now \(503\): look into the log"):
            site.joining(config).by_token(token)
        assert "the register cannot be written (database or disk is full): make room on the disk" in caplog.text
        assert "Traceback" not in caplog.text
        filler.unlink()
        site.server.look()
        assert time.time() < site.server._renew_at
        assert site.joining(config).by_token(token).name == "cam-1"


@on_small_disk(4)
def test_a_full_or_read_only_disk_uses_no_token_up(small_disk: Path, site: FleetSite) -> None:
    config = small_disk / "almena.yaml"
    config.write_text("state_dir: state\n")
    token = site.token("cam-1")
    filler = fill(small_disk)
    with pytest.raises(SettingsError, match="make room on the disk"):
        site.joining(config).by_token(token)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(SettingsError, match="mount it for writing"):
            site.joining(config).by_token(token)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert site.register.decisions(10) == []
    joined = site.joining(config).by_token(token)
    assert joined.settings.device.name == "cam-1"
    folder = IdentityFolder(joined.settings.identity_dir)
    filler = fill(small_disk)
    with pytest.raises(IdentityError, match="make room on the disk"):
        renew(site.url, folder, folder.pair())
    assert site.register.decisions(10)[-1][1] == "join", "no certificate is asked for that could not be kept"
    filler.unlink()
    assert isinstance(renew(site.url, folder, folder.pair()), Pair)
    assert folder.renewed()


def test_a_settings_file_that_is_wrong_stops_it_before_anything_is_asked(site: FleetSite, tmp_path: Path) -> None:
    config = tmp_path / "almena.yaml"
    config.write_text("streams: 7\n")
    with pytest.raises(SettingsError, match="must be a list"):
        site.join(config)
    assert site.register.decisions(10) == []


def test_a_power_cut_between_certificate_and_settings_is_mended_by_the_same_command(
    site: FleetSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, config = site.token("cam-1"), tmp_path / "almena.yaml"

    def cut(path: Path, sections: Mapping[str, Any], *, rehearse: bool) -> None:
        if not rehearse:
            raise KeyboardInterrupt
        write_sections(path, sections, rehearse=rehearse)

    with monkeypatch.context() as patch:
        patch.setattr(joining, "write_sections", cut)
        with pytest.raises(KeyboardInterrupt):
            site.joining(config).by_token(token)
    assert not config.exists()
    folder = IdentityFolder(tmp_path / "almena-state" / "identity")
    given = folder.pair().certificate
    assert site.joining(config).by_token(token).settings.device.name == "cam-1"
    assert folder.pair().certificate == given
    assert [why for *_, why, _ in site.register.decisions(10)] == ["a new identity", AGAIN]


def test_a_broker_that_is_down_leaves_the_same_command_to_be_given_again(
    site: FleetSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, config = site.token("cam-1"), tmp_path / "almena.yaml"

    def command() -> None:
        join(site.url, token, given=config)

    with pytest.raises(
        IdentityError, match=r"the broker does not take it yet: nothing listens at .* run the same again: it gets the same certificate"
    ):
        command()
    folder = IdentityFolder(settings.load(config).identity_dir)
    given, written = folder.pair().certificate, config.read_text()
    with pytest.raises(IdentityError, match="admits nobody"):
        site.joining(tmp_path / "thief" / "almena.yaml").by_token(token)
    site.trial.start()

    def taken() -> bool:
        with suppress(IdentityError):  # the check of the broker has its own, short, patience
            command()
            return True
        return False

    wait_until(taken, 60, "the broker to take it")
    assert f"127.0.0.1:{site.trial.broker.port} accepts this device" in capsys.readouterr().out
    assert (folder.pair().certificate, config.read_text()) == (given, written)
    assert {path.name for path in folder.path.iterdir()} == {"ca.pem", "device.pem"}
    with pytest.raises(IdentityError, match="admits nobody"):
        command()


@on_small_disk(4)
def test_settings_that_cannot_be_written_are_told_before_anything_is_asked(small_disk: Path, site: FleetSite, tmp_path: Path) -> None:
    config, token = small_disk / "almena.yaml", site.token("cam-1")

    def refused(why: str) -> None:
        with pytest.raises(SettingsError, match=why):
            site.joining(config).by_token(token)

    config.write_text(f"{{state_dir: {tmp_path}/state}}\n")
    refused("almena.yaml:1: .* write one section a line")
    config.write_text(f"state_dir: {tmp_path}/state\n")
    filler = fill(small_disk)
    refused("No space left.* make room on the disk")
    filler.unlink()
    for mounted in (config, small_disk):
        subprocess.run(["mount", "--bind", str(mounted), str(mounted)], check=True)
        try:
            if mounted is config:
                refused("mounted by itself.* mount its folder instead")
            subprocess.run(["mount", "-o", "remount,bind,ro", str(mounted)], check=True)
            refused("cannot be written .*mount it for writing, or let this user write the file")
        finally:
            subprocess.run(["umount", "--lazy", str(mounted)], check=True)
    assert config.read_text() == f"state_dir: {tmp_path}/state\n"
    assert not (tmp_path / "state").exists()
    assert site.register.decisions(10) == []
    assert site.joining(config).by_token(token).settings.device.name == "cam-1"
