"""The device's files of its identity: what is in them, and what a power cut leaves."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import settings
from agent.errors import SettingsError, UsageError
from agent.identity.address import Address
from agent.identity.checking import taken
from agent.identity.client import EnrolmentServer
from agent.identity.errors import IdentityError, MistakenError
from agent.identity.folder import IdentityFolder
from agent.identity.keys import Pair, key_pem, new_key, prove, proven, public_bytes, request_for
from agent.identity.protocol import Token
from agent.identity.renewal import RENEWAL_PACE, UNPROVEN_S, Renewal, due_at
from agent.settings_file import located, to_be_changed, write_key, write_sections
from agent.tls_settings import TlsSettings
from agent.uplink.credentials import Credentials
from provisioning.ca import Authority

pytestmark = pytest.mark.unit

DAY = timedelta(days=1)
CA = Authority.new("Test fleet")


def pair_of(name: str = "cam-1", ca: Authority = CA) -> Pair:
    """A key and its certificate."""
    key = new_key()
    return Pair(key, ca.device(name, key.public_key(), 30 * DAY))


def test_a_token_is_read_as_it_was_printed() -> None:
    token = Token("cam-1", bytes(range(32)), CA.pin)
    assert Token.parse(f" {token}\n") == token
    assert token.secret_text not in repr(token)
    other = (f"{'a' * 99}{str(token)[5:]}", f"../x{str(token)[5:]}", str(token).replace("AAEC", "AA!C"))
    for damaged in ("", "cam-1", str(token)[:-1], str(token).replace(".", "", 1), f"{token}.x", *other):
        with pytest.raises(MistakenError, match="not the whole of it") as error:
            Token.parse(damaged)
        assert token.secret_text not in str(error.value)


NO_ADDRESSES = (
    "", "http://fleet.example.org", "fleet.example.org:8643", "https://", "https://:8643", "https://h:99999", "https://h:0", "https://h:x",
    "https://u:p@h", "https://h?x", "https://h#x", "https://h\n", "https://h\x00/", "https://h /", "https://h/a b", "https://a..b", "https://[::1",
    "https://::1", "https://2001:db8::1:8643", "https://[::g]", f"https://{'h' * 64}.org", "https://h'/", "https://h%00",
)  # fmt: skip


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(MistakenError, match="begins with https://"):
        EnrolmentServer(url)


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://fleet.example.org", "fleet.example.org", 443, ""),
        ("HTTPS://Fleet:8643/", "fleet", 8643, ""),
        ("https://[2001:db8::1]:8643/hub/", "2001:db8::1", 8643, "/hub"),
        ("https://bücher.example/", "bücher.example", 443, ""),
    ],
)
def test_where_an_address_leads(url: str, host: str, port: int, path: str) -> None:
    assert Address.of(url) == Address(host, port, path)


def test_a_proof_is_for_one_purpose_one_request_and_one_key() -> None:
    pair, request = pair_of(), request_for("cam-1", new_key())
    proof = prove("renew", request, pair.key)
    assert proven("renew", request, proof, pair.certificate)
    assert not proven("claim", request, proof, pair.certificate)
    assert not proven("renew", request_for("cam-1", new_key()), proof, pair.certificate)
    assert not proven("renew", request, proof, pair_of().certificate)
    assert not proven("renew", request, "no base64!", pair.certificate)


def test_a_device_takes_only_its_own_certificate_of_its_own_ca() -> None:
    key = new_key()
    issued = CA.device("cam-1", key.public_key(), DAY)
    pem = Pair(key, issued).pem.decode()
    assert taken(pem, key, "cam-1", CA.pem).certificate == issued
    for other, name, ca, why in (
        (key, "cam-2", CA.pem, "another name"),
        (new_key(), "cam-1", CA.pem, "another key"),
        (key, "cam-1", Authority.new("Test fleet").pem, "has not signed"),
    ):
        with pytest.raises(IdentityError, match=why):
            taken(pem, other, name, ca)
    ended = Pair(key, CA.device("cam-1", key.public_key(), timedelta(minutes=-1))).pem.decode()
    with pytest.raises(IdentityError, match=r"ended on .* compare the clocks"):
        taken(ended, key, "cam-1", CA.pem)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    mask = os.umask(0o007)
    folder = IdentityFolder(tmp_path / "identity")
    folder.joined(pair_of(), CA.pem)
    os.umask(mask)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()} == {0o600}


def test_root_hands_over_the_files_of_an_identity_and_what_no_link_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.identity.folder.SERVICE_USER", "nobody")
    shadow, folder = tmp_path / "shadow", IdentityFolder(tmp_path / "identity")
    shadow.write_text("root:x")
    folder.joined(pair_of(), CA.pem)
    (folder.path / "x").symlink_to(shadow)
    folder.hand_over()
    if os.geteuid() != 0:  # only root can, and need, hand over
        assert folder.device.owner() == shadow.owner()
        return
    assert {path.owner() for path in (folder.path, folder.ca, folder.device)} == {"nobody"}
    for link in (folder.next.symlink_to, folder.next.hardlink_to):
        link(shadow)
        with pytest.raises(IdentityError, match=r"next\.pem.*no link is followed here: delete it"):
            folder.hand_over()
        folder.next.unlink()
    elsewhere = folder.path.rename(tmp_path / "elsewhere")
    os.chown(elsewhere, 0, 0)
    folder.path.symlink_to(elsewhere)
    with pytest.raises(IdentityError, match="let it be a folder and no link"):
        folder.hand_over()
    assert {shadow.owner(), elsewhere.owner()} == {"root"}


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    """Whoever owns the folder above may put a link in its place, before root joins or renews."""
    elsewhere, folder = tmp_path / "elsewhere", IdentityFolder(tmp_path / "identity")
    elsewhere.mkdir()
    (elsewhere / "next.pem").write_text("another's")
    folder.path.symlink_to(elsewhere)
    for write in (lambda: folder.write(folder.ca, b""), lambda: folder.joined(pair_of(), CA.pem), lambda: folder.key(folder.join_key)):
        with pytest.raises(IdentityError, match="let it be a folder and no link"):
            write()
    assert [path.name for path in elsewhere.iterdir()] == ["next.pem"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no readable private key"),
        (key_pem(new_key()), "no readable certificate"),
        (key_pem(new_key()) + pair_of().pem, "another key"),
    ],
)
def test_a_damaged_identity_says_what_to_do(tmp_path: Path, content: bytes, why: str) -> None:
    folder = IdentityFolder(tmp_path)
    with pytest.raises(IdentityError, match="no identity; run `almena join"):
        folder.pair()
    folder.device.write_bytes(content)
    with pytest.raises(IdentityError, match=f"{why}.*run `almena join URL TOKEN` with a new token"):
        folder.pair()


class _PowerCut(BaseException):
    """Nothing more is done, not even tidying up."""


def _cut(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], int]:
    """The power goes with the file operation number `after`, from 0; returns how many there were."""
    done = [0]

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            if done[0] >= after:
                raise _PowerCut
            done[0] += 1
            return real(*arguments, **options)

        return operation

    for owner, names in ((os, ("open", "fsync", "replace")), (Path, ("replace", "unlink"))):
        for name in names:
            monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))
    return lambda: done[0]


def test_a_power_cut_anywhere_in_a_renewal_leaves_an_identity_that_works(tmp_path: Path) -> None:
    """Key written, certificate written, accepted by the broker: cut before each of the operations of which they consist."""
    cuts = 0
    while True:
        folder = IdentityFolder(tmp_path / str(cuts))
        old = pair_of()
        folder.joined(old, CA.pem)
        issued: dict[bytes, Pair] = {}

        def renew(folder: IdentityFolder = folder, issued: dict[bytes, Pair] = issued) -> Pair:
            """As the uplink does it, with a server that answers the same to the same key."""
            if (waiting := folder.renewed()) is None:
                key = folder.key(folder.renewal_key)
                pair = issued.setdefault(key_pem(key), Pair(key, CA.device("cam-1", key.public_key(), 30 * DAY)))
                folder.write(folder.next, pair.pem)
            else:
                pair = waiting
            Credentials(TlsSettings(), folder, "cam-1").context()
            folder.promote()
            return pair

        with pytest.MonkeyPatch.context() as monkeypatch:
            count = _cut(monkeypatch, cuts)
            try:
                renew()
            except _PowerCut:
                finished = False
            else:
                finished = True
            assert finished or count() == cuts
        in_force = folder.pair()  # key and certificate of one kind, whatever happened
        assert in_force.certificate in [old.certificate, *(pair.certificate for pair in issued.values())]
        if finished:
            break
        if in_force.certificate == old.certificate:
            assert renew().certificate == folder.pair().certificate != old.certificate
            assert len(issued) == 1, "a renewal that is repeated is one with the same key"
        assert folder.key(folder.renewal_key) != folder.pair().key
        cuts += 1
    assert cuts > 8


def test_a_power_cut_anywhere_in_a_join_leaves_no_renewal_of_the_identity_before(tmp_path: Path) -> None:
    cuts, finished = 0, False
    while not finished:
        folder, new = IdentityFolder(tmp_path / str(cuts)), pair_of("cam-2")
        folder.joined(pair_of("cam-1"), CA.pem)
        folder.write(folder.next, pair_of("cam-1").pem)
        folder.key(folder.renewal_key)
        with pytest.MonkeyPatch.context() as monkeypatch:
            _cut(monkeypatch, cuts)
            try:
                folder.joined(new, CA.pem)
            except _PowerCut:
                pass
            else:
                finished = True
        if folder.pair().name == "cam-2":
            assert not folder.next.exists()
            assert not folder.renewal_key.exists()
        cuts += 1
    assert cuts > 8


def test_a_renewal_that_ended_before_the_broker_saw_it_is_done_once_more(tmp_path: Path) -> None:
    folder, key = IdentityFolder(tmp_path), new_key()
    folder.joined(pair_of(), CA.pem)
    folder.write(folder.next, Pair(key, CA.device("cam-1", key.public_key(), timedelta(minutes=-1))).pem)
    assert folder.renewed() is None
    assert not folder.next.exists()
    folder.write(folder.next, pair_of().pem)
    assert folder.renewed() is not None


def test_a_request_is_repeated_with_its_key_and_another_token_gets_another_key(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path)
    first = public_bytes(folder.key(folder.join_key, "cam-1.secret.pin"))
    assert public_bytes(folder.key(folder.join_key, "cam-1.secret.pin")) == first
    assert b"secret" not in folder.join_key.read_bytes()
    assert public_bytes(folder.key(folder.join_key, "cam-1.later.pin")) != first


def test_the_old_certificate_stays_until_the_new_one_is_accepted(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path)
    old, new = pair_of(), pair_of()
    folder.joined(old, CA.pem)
    credentials = Credentials(TlsSettings(ca_file=folder.ca, cert_file=folder.device, key_file=folder.device), folder, "cam-1")
    credentials.context()
    credentials.accepted()
    folder.write(folder.next, new.pem)
    credentials.accepted()  # of an attempt that began before
    assert folder.pair().certificate == old.certificate
    credentials.context()  # not accepted: the next is with the old one
    credentials.context()
    credentials.accepted()
    assert folder.pair().certificate == old.certificate
    credentials.context()
    credentials.accepted()
    assert folder.pair().certificate == new.certificate
    assert not folder.next.exists()
    folder.write(folder.next, b"damaged")
    credentials.context()
    assert not folder.next.exists()
    folder.device.write_bytes(pair_of("cam-2").pem)
    with pytest.raises(OSError, match=r"the certificate is for cam-2: set device\.name to it"):
        credentials.context()
    folder.device.unlink()
    with pytest.raises(OSError, match="run `almena join"):
        credentials.context()


def test_a_renewed_certificate_that_nothing_has_proven_is_tried_again_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = IdentityFolder(tmp_path)
    folder.joined(pair_of(), CA.pem)
    folder.write(folder.next, pair_of().pem)
    begun: list[float] = []
    renewal = Renewal("https://nobody:1", folder, lambda: begun.append(1.0), lambda _: None, RENEWAL_PACE)
    renewal.look()
    assert begun == [], "the session that begins tries it by itself"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + UNPROVEN_S)
    for _ in range(3):
        renewal.look()
    assert begun == [1.0]


def test_renewal_is_due_after_two_thirds_and_not_for_all_at_once() -> None:
    pair = pair_of()
    share = [(due_at(one) - one.begins) / (one.ends - one.begins) for one in (pair, pair_of("cam-2"), pair_of("cam-3"))]
    assert all(2 / 3 <= one <= 0.7 for one in share)
    assert len(set(share)) == 3
    assert due_at(pair) == due_at(pair)


FILE = """\
# my device
device: {name: old}
mqtt:   # the broker
  host: old.example.org
  keepalive_s: 7

# comments of others stay
telemetry:
  period_s: 60
"""


def test_sections_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "almena.yaml"
    path.write_text(FILE)
    path.chmod(0o664)
    sections = {"device": {"name": "cam-1"}, "mqtt": {"host": "new", "keepalive_s": 7}, "identity": {"url": "https://f"}}
    write_sections(path, sections)
    assert path.read_text() == (
        "# my device\ndevice:\n  name: cam-1\nmqtt:\n  host: new\n  keepalive_s: 7\n\n# comments of others stay\n"
        "telemetry:\n  period_s: 60\nidentity:\n  url: https://f\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    before = path.read_text()
    write_sections(path, sections)
    assert path.read_text() == before
    with pytest.raises(SettingsError, match="unknown key"):
        write_sections(path, {"mqtt": {"hots": "new"}})
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_sections_of_a_new_file_and_of_one_in_another_form(tmp_path: Path) -> None:
    write_sections(tmp_path / "new.yaml", {"device": {"name": "cam-1"}})
    assert yaml.safe_load((tmp_path / "new.yaml").read_text()) == {"device": {"name": "cam-1"}}
    (tmp_path / "flow.yaml").write_text("{device: {name: x}}\n")
    with pytest.raises(SettingsError, match="one section a line"):
        write_sections(tmp_path / "flow.yaml", {"device": {"name": "cam-1"}})


def test_a_key_is_replaced_and_the_section_keeps_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "almena.yaml"
    path.write_text("# mine\nmqtt: {host: b}\n# the end\n")
    write_key(path, "mqtt", "port", 1884, settings.load)
    assert path.read_text() == "# mine\nmqtt:\n  host: b\n  port: 1884\n# the end\n"
    path.write_text("mqtt:\n    # of the house\n    host: b  # old\n    # to be kept\n    port: 1884\n")
    write_key(path, "mqtt", "host", "c", settings.load)
    write_key(path, "mqtt", "keepalive_s", 7, settings.load)
    expected = "mqtt:\n    # of the house\n    keepalive_s: 7\n    host: c\n    # to be kept\n    port: 1884\n"
    assert path.read_text() == expected
    with pytest.raises(SettingsError, match="unknown key"):
        write_key(path, "mqtt", "hots", "c", settings.load)
    assert path.read_text() == expected


def test_the_identity_brings_the_files_of_tls(tmp_path: Path) -> None:
    path = tmp_path / "almena.yaml"
    path.write_text("identity: {url: 'https://f'}\nmqtt: {host: b}\nstate_dir: s\n")
    loaded = settings.load(path)
    assert loaded.mqtt is not None
    assert loaded.mqtt.tls is not None
    assert loaded.mqtt.tls.cert_file == tmp_path / "s" / "identity" / "device.pem"
    path.write_text("identity: {url: 'https://f'}\nmqtt: {host: b, tls: {}}\n")
    with pytest.raises(SettingsError, match="take tls"):
        settings.load(path)


def test_the_settings_of_the_service_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`almena join`, `renew` and `doctor` need no --config where Almena is a service."""
    here, service = Path("almena.yaml"), tmp_path / "etc" / "almena.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agent.settings_file.PLACES", (here, service))
    assert (located(), to_be_changed(None)) == (None, here), "one that `almena join` makes"
    service.parent.mkdir()
    service.touch()
    assert located() == to_be_changed(None) == service
    assert to_be_changed(Path("other.yaml")) == Path("other.yaml")
    here.touch()
    assert located() == to_be_changed(None) == here
    here.unlink()
    service.unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"Almena is a service here.*use sudo"):
        to_be_changed(None)
