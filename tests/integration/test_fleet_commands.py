"""`almena fleet …` and `almena join` as somebody types them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agent import cli, logs
from provisioning import ca, settings
from tests.fakes.fleet_site import PASSPHRASE

Almena = Callable[..., str]
URLS = ("f:8643", "http://f", "https://f:99999", "https://::1", "https://[::1", "https://f\n", "https://f:x", "")
BROKERS = (
    "",
    ":",
    "b:99999",
    "b:x",
    "::1",
    "[::1",
    "[b]",
    "mqtts://b",
    "b:1883/x",
    "b\nuser root",
    "b c",
    "b:",
    "a..b",
    "b%",
    "%h",
    "[fe80::1%eth0]",
    64 * "b",
)


@pytest.fixture
def almena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Almena]:
    """The command line in an empty folder; gives what it prints, and asserts its exit code."""
    monkeypatch.setattr(ca, "KDF_ROUNDS", 1000)
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("ALMENA_FLEET", str(tmp_path / "fleet"))
    monkeypatch.setenv("ALMENA_CA_PASSPHRASE", PASSPHRASE)
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0o022)

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["almena", *arguments])
        try:
            cli.main()
            ended: Any = 0
        except SystemExit as end:
            ended = end.code or 0
        out, err = capsys.readouterr()
        assert ended == code, err
        return out + err

    yield run
    os.umask(mask)


@pytest.fixture
def made(almena: Almena) -> str:
    """What `fleet init` said."""
    return almena("fleet", "init", "--url", "https://f:8643", "--broker", "b.example:1883", "--user", "root")


def test_a_fleet_from_its_first_day(almena: Almena, made: str, tmp_path: Path) -> None:
    fingerprint = made.partition("fingerprint ")[2][:64]
    assert fingerprint in almena("fleet", "ca", "show")
    assert "holds a fleet already" in almena("fleet", "init", "--url", "https://f", "--broker", "b", code=1)
    assert "--claim lost.pem" in almena("fleet", "claim", "batch-0", "lost.pem")
    told = almena("fleet", "revoke", "claim.batch-0")
    assert "claim.batch-0 is revoked: 1 certificate(s); the broker will hear it from the files of `almena fleet broker-config DIR`" in told
    assert "`almena fleet claim batch-0 FILE` makes another one" in told
    written = tmp_path / "fleet" / "fleet.yaml"
    written.write_text(f"# ours\n{written.read_text()}  # two from May on\n  hubs: 1\n# the end\n")
    before = written.read_text()
    assert str(tmp_path / "etc" / "mosquitto.conf") in almena("fleet", "broker-config", "etc")
    added = f"broker:\n  folder: {tmp_path}/etc\n"
    assert written.read_text() == before.replace("broker:\n", added)
    assert written.stat().st_mode & 0o777 == 0o600
    assert "listener 1883\n" in (tmp_path / "etc" / "mosquitto.conf").read_text()
    assert len(x509.load_pem_x509_crl((tmp_path / "etc" / "crl.pem").read_bytes())) == 1
    told = almena("fleet", "revoke", "hub", code=1)
    assert "hub is revoked in the register, and stays so; its session, if it has one, was not ended: the broker cannot be told" in told
    assert "Errno" not in told
    told = almena("fleet", "revoke", "fleet.broker", code=1)
    assert "cannot be revoked: devices ask no list for it. `almena fleet broker-config DIR` writes a new one" in told
    text = almena("fleet", "invite", "cam-1", "--qr")
    assert "almena join https://f:8643 cam-1." in text
    assert "▄" in text
    token = text.split()[text.split().index("https://f:8643") + 1]
    assert "its invitation does not hold" in almena("fleet", "revoke", "cam-1")
    assert "no devices yet" in almena("fleet", "devices")
    assert "nobody with the name 'cam-1' has a certificate" in almena("fleet", "revoke", "cam-1", code=1)
    assert "--claim claim.pem" in almena("fleet", "claim", "batch-1", "claim.pem")
    assert "nothing waits" in almena("fleet", "requests")
    assert "no request 'x' waits" in almena("fleet", "approve", "x", code=2)
    told = almena("fleet", "decisions")
    assert "invited" in told
    assert token.split(".")[1] not in told
    files = [*(tmp_path / "etc").iterdir(), *(tmp_path / "fleet").iterdir(), tmp_path / "claim.pem"]
    assert [path.name for path in files if path.stat().st_mode & 0o077] == ["ca.pem"], "of the fleet's folder, for everybody"


@pytest.mark.parametrize("external", [False, True])
def test_an_init_that_broke_off_is_done_again(almena: Almena, tmp_path: Path, external: bool) -> None:
    command = ["fleet", "init", "--url", "https://f:8643", "--broker", "b", "--user", "root", *(["--external"] if external else [])]
    write = settings.write_private
    for cut in ("fleet.yaml", "ca.pem" if external else "ca.csr", "ca.p12"):

        def interrupted(path: Path, content: bytes, mode: int = 0o600, cut: str = cut) -> None:
            if path.name == cut:
                raise KeyboardInterrupt
            write(path, content, mode)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "write_private", interrupted)
            almena(*command[:-1] if external else [*command, "--external"], code=130)  # the other kind of CA, which leaves no trace
    almena(*command)
    assert {path.name for path in (tmp_path / "fleet").iterdir()} == {"fleet.yaml", "ca.p12", "ca.csr" if external else "ca.pem"}
    (tmp_path / "fleet" / "register.sqlite").touch()
    (tmp_path / "fleet" / "ca.p12").unlink()
    assert "put back what is missing from your copy" in almena(*command, code=1)


def test_addresses_and_names_that_cannot_be(almena: Almena, made: str, tmp_path: Path) -> None:
    assert "cannot be a name" in almena("fleet", "invite", "hub", code=2)
    text = almena("fleet", "invite", "cam-1")
    token = text.split()[text.split().index("https://f:8643") + 1]
    for url in URLS:
        assert "--url: " in almena("fleet", "init", "--dir", "none", "--url", url, "--broker", "b", code=2)
        assert "begins with https://" in almena("join", url, token, code=2)
    for broker in BROKERS:
        assert "--broker: " in almena("fleet", "init", "--dir", "none", "--url", "https://f", "--broker", broker, code=2)
    assert "--user: " in almena("fleet", "init", "--dir", "none", "--url", "https://f", "--broker", "b", "--user", "x\nport 1", code=2)
    assert "cannot be a device's name" in almena("join", "https://f", "--claim", "claim.pem", "--name", "Cam 1", code=2)
    assert "not 'hub'" in almena("join", "https://f", "--claim", "claim.pem", "--name", "hub", code=2)
    for folder in ("with blanks", "100%"):
        assert "name another folder" in almena("fleet", "broker-config", folder, code=1)
        assert not (tmp_path / folder).exists()
    for name in (" ", "\t"):
        assert "--name: " in almena("fleet", "init", "--dir", "none", "--url", "https://f", "--broker", "b", "--name", name, code=2)
    too_long = almena("fleet", "init", "--url", "https://f", "--broker", "b", "--name", 33 * "ü", code=2)
    assert "bytes that a certificate has for a name" in too_long
    assert "is too long: at most 58" in almena("fleet", "claim", 59 * "b", "claim.pem", code=2)
    for host in ("a..b", "nowhere.invalid", "192.0.2.1"):
        assert "--host is an address of this machine" in almena("fleet", "enrol-server", "--host", host, code=1)
    assert not (tmp_path / "none").exists()


def test_files_and_passphrases_that_cannot_be(almena: Almena, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    almena("fleet", "broker-config", "etc")
    assert "etc cannot be written (it is a folder)" in almena("fleet", "claim", "batch-2", "etc", code=1)
    (tmp_path / "bytes").write_bytes(b"\xff" * 12)
    for command, said in {
        ("claim", "batch-2", "bytes/claim.pem"): "bytes cannot be written (it is a file): name another place",
        ("door-certificate", "etc", "hub.example.org"): "etc cannot be written (it is a folder)",
        ("broker-config", "bytes"): "cannot be written (it is a file): name another place",
        ("broker-config", "bytes/etc"): "cannot be written (Not a directory): name another place",
        ("revoke", "nobody"): "nobody with the name 'nobody' has a certificate",
        ("init", "--url", "https://f", "--broker", "b"): "holds a fleet already",
        ("ca", "import", "bytes"): "is there already: the devices know that CA",
    }.items():
        with monkeypatch.context() as nobody_types:  # and there is nobody to type the passphrase
            nobody_types.delenv("ALMENA_CA_PASSPHRASE")
            assert said in almena("fleet", *command, code=1)
    assert "holds no passphrase" in almena("fleet", "broker-config", "etc", "--passphrase-file", "bytes", code=1)
    assert (tmp_path / "etc" / "mosquitto.conf").exists()
    monkeypatch.setenv("ALMENA_CA_PASSPHRASE", "wrong horse battery")
    assert "cannot be opened with this passphrase" in almena("fleet", "broker-config", "etc", code=1)
    monkeypatch.delenv("ALMENA_CA_PASSPHRASE")
    assert "give --passphrase-file, or set $ALMENA_CA_PASSPHRASE" in almena("fleet", "broker-config", "etc", code=1)
