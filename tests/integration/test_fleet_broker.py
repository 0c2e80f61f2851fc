"""mosquitto with exactly the configuration of `almena fleet broker-config`: who may do what, revocation, renewal, the whole uplink."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from agent.backoff import Backoff
from agent.identity.folder import IdentityFolder
from agent.identity.keys import Pair, new_key
from agent.identity.renewal import due_at
from agent.uplink.app import Pace, Uplink
from provisioning.acl_matrix import ROLES, all_topics
from provisioning.broker import write_configuration
from provisioning.ca import Authority, ca_request, signed_by_others
from provisioning.client import Heard, NotAcceptedError, Session, session
from provisioning.command import revoke
from provisioning.errors import FleetError
from provisioning.trial import Trial
from provisioning.trying import prove
from provisioning.watch import watch
from tests.fakes.fleet import Hub, Producer, load
from tests.fakes.fleet_site import HASTY, PASSPHRASE, FleetSite
from tests.waiting import wait_until

DAY = timedelta(days=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FleetSite]:
    with FleetSite(tmp_path / "fleet") as one:
        one.trial.start()
        yield one


@pytest.fixture
def config(site: FleetSite, tmp_path: Path) -> Path:
    """The settings of a device that has joined."""
    path = tmp_path / "device" / "almena.yaml"
    path.parent.mkdir()
    path.write_text("web: {enabled: false}\ntelemetry: {period_s: 3600}\nmqtt: {keepalive_s: 5}\n")
    site.join(path)
    return path


class Running:
    """The uplink of a device, with short pauses."""

    def __init__(self, config: Path, pace: Pace = HASTY) -> None:
        self.uplink = Uplink(config, pace)
        self.folder = IdentityFolder(self.uplink.settings.identity_dir)
        self.status = self.uplink.status

    def __enter__(self) -> Running:
        self.uplink.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.uplink.stop()

    def connected(self, count: int = 1) -> None:
        """Wait for the session number `count`."""
        wait_until(lambda: self.status.connected and self.status.connects >= count, 10, f"session {count}: {self.status.text}")


def heard(one: Session, wanted: Callable[[Heard], bool]) -> Heard:
    """The first message of that kind."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(queue.Empty):
            message = one.heard.get(timeout=1.0)
            if wanted(message):
                return message
    raise AssertionError("nothing of the kind was heard")


def test_every_role_at_every_topic_a_will_and_a_revocation(tmp_path: Path) -> None:
    with Trial(tmp_path) as trial:
        proof = prove(trial)
    assert proof.wrong == []
    assert set(proof.matrix.found) == set(ROLES)
    assert {one.partition("/up/")[0] for one in all_topics()} >= {"almena/1/cam-1", "almena/1/hub/state"}
    assert proof.matrix.table().count("| rw ") == 1, "nobody but the hub at its own state both reads and writes"
    assert proof.revocation["disconnected_s"] < 5.0


def test_several_hubs_share_what_devices_send(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    write_configuration(trial.folder, trial.broker.model_copy(update={"hubs": 2}), trial.authority, trial.register)
    with trial:
        pairs = [Pair.of((trial.folder / name).read_bytes()) for name in ("hub.pem", "hub-2.pem")]
        with session(trial.endpoint, pairs[0]) as one, session(trial.endpoint, pairs[1]) as other:
            for hub in (one, other):
                hub.subscribe(["$share/hubs/almena/1/+/up/#"])
            with session(trial.endpoint, trial.device("cam-1")) as device:
                for number in range(10):
                    device.publish("almena/1/cam-1/up/audit", b"%d" % number)
                wait_until(lambda: one.heard.qsize() + other.heard.qsize() == 10, 30, "each message to be heard once")
            assert one.heard.qsize()
            assert other.heard.qsize()
            assert not one.ended.is_set(), "no hub takes the place of another"


def test_a_matrix_that_is_wrong_is_said(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    acl = trial.folder / "acl"
    acl.write_text(acl.read_text().replace("pattern write almena/1/%u/up/#", "pattern write almena/1/+/up/#"))
    with trial:
        wrong = prove(trial).wrong
    assert "other device at almena/1/cam-1/up/audit: w, and it should be -" in wrong
    assert not [one for one in wrong if one.startswith("device at almena/1/cam-1/")]


def test_joined_connected_delivered_and_renewed_without_a_loss(site: FleetSite, config: Path) -> None:
    """A certificate of 80 minutes, of which 60 are over."""
    key = new_key()
    old = Pair(key, site.authority.device("cam-1", key.public_key(), timedelta(minutes=20)))
    site.register.add(old.certificate, "device", old.certificate.public_bytes(Encoding.PEM))
    folder = IdentityFolder(load(config).identity_dir)
    assert due_at(old) < time.time() < old.ends
    with session(site.trial.endpoint, site.trial.hub) as hub:
        hub.subscribe(["almena/1/+/up/event/#", "almena/1/+/status"])
        with Running(config) as device:
            producer = Producer(device.uplink.settings)
            producer.add(20)
            device.connected()
            folder.write(folder.device, old.pem)
            device.connected(2)
            new = device.folder.pair()
            assert new.certificate != old.certificate
            assert {path.name for path in folder.path.iterdir()} == {"ca.pem", "device.pem"}
            producer.add(20)
            wait_until(lambda: producer.pending() == 0, 10, "everything to be settled")
            seen: set[int] = set()
            while len(seen) < 40:  # what was on its way when the session began anew comes twice
                seen.add(json.loads(heard(hub, lambda one: "/up/event/" in one.topic).payload)["data"]["n"])
            assert seen == set(range(40))
            assert device.status.identity_trouble == ""
            producer.close()
    assert not [one for one in list(hub.heard.queue) if b'"offline"' in one.payload], "a renewal is no outage"


def test_the_hub_takes_events_with_the_files_of_the_broker(site: FleetSite, config: Path, tmp_path: Path) -> None:
    """`fleet.ingest` under the hub's own certificate, as docs/identity.md says it."""
    config.write_text(config.read_text().replace("delivery: broker", "delivery: hub"))
    files = site.trial.folder
    tls = ["--ca-file", str(files / "ca.pem"), "--cert-file", str(files / "hub.pem")]
    with Hub(tmp_path / "hub", site.trial.broker.port, "5", *tls) as hub, Running(config) as device:
        producer = Producer(device.uplink.settings)
        producer.add(20)
        wait_until(lambda: producer.pending() == 0, 60, "the hub to settle all events")
        producer.close()
    assert hub.numbers() == list(range(20))


def test_a_new_certificate_that_waits_is_tried_by_the_session_that_begins(site: FleetSite, config: Path) -> None:
    folder, key = IdentityFolder(load(config).identity_dir), new_key()
    renewed = Pair(key, site.authority.device("cam-1", key.public_key(), DAY))
    site.register.add(renewed.certificate, "device", renewed.certificate.public_bytes(Encoding.PEM))
    folder.write(folder.next, renewed.pem)
    with Running(config) as device:
        device.connected()
        assert folder.pair().certificate == renewed.certificate
        assert not folder.next.exists()


def test_a_new_certificate_that_the_broker_refuses_leaves_the_old_one(site: FleetSite, config: Path) -> None:
    folder = IdentityFolder(load(config).identity_dir)
    good = folder.pair()
    key = new_key()
    stranger = Authority.new("Almena fleet")
    folder.write(folder.next, Pair(key, stranger.device("cam-1", key.public_key(), DAY)).pem)
    with Running(config) as device:
        device.connected()
        assert device.folder.pair().certificate == good.certificate
        assert folder.next.exists()


def test_revoked_while_connected_and_joined_again(site: FleetSite, config: Path) -> None:
    with Running(config) as device:
        device.connected()
        done = site.trial.revoke("cam-1")
        wait_until(lambda: not device.status.connected, 5, "the end of the session")
        assert done.disconnected_s < 5.0
        site.trial.stop(kill=True)
        site.trial.start()
        wait_until(lambda: device.status.trouble and device.status.trouble.code == "MQTT_TLS_CLIENT_CERTIFICATE", 10, "the refusal")
        assert device.status.connects == 1
    site.join(config)
    with Running(config) as device:
        device.connected()


def test_expired_while_it_was_off_waits_for_the_operator(site: FleetSite, config: Path) -> None:
    """And so has the certificate that it had got in its place, and that the broker never saw. The new one is used at once, however long the
    next try would have waited."""
    folder, key = IdentityFolder(load(config).identity_dir), new_key()
    expired = Pair(key, site.authority.device("cam-1", key.public_key(), timedelta(minutes=-5)))
    site.register.add(expired.certificate, "device", expired.certificate.public_bytes(Encoding.PEM))
    folder.write(folder.device, expired.pem)
    late = folder.key(folder.renewal_key)
    renewed = Pair(late, site.authority.device("cam-1", late.public_key(), timedelta(minutes=-1)))
    site.register.add(renewed.certificate, "device", renewed.certificate.public_bytes(Encoding.PEM), expired.certificate.serial_number)
    folder.write(folder.next, renewed.pem)
    with Running(config, replace(HASTY, connect=Backoff(60, 60, max))) as device:
        wait_until(lambda: "almena fleet approve" in device.status.text, 10, "the operator to be asked")
        assert "its certificate has expired" in device.status.text
        assert device.status.connects == 0
        (request,) = site.register.requests()
        assert request.id in device.status.text
        site.register.decide(request.id, "approved")
        device.connected()
        wait_until(lambda: device.status.identity_trouble == "", 10, "the trouble to be over")


def test_a_revoked_device_is_told_when_it_renews(site: FleetSite, config: Path) -> None:
    folder, key = IdentityFolder(load(config).identity_dir), new_key()
    expired = Pair(key, site.authority.device("cam-1", key.public_key(), timedelta(minutes=-5)))
    site.register.add(expired.certificate, "device", expired.certificate.public_bytes(Encoding.PEM))
    folder.write(folder.device, expired.pem)
    site.register.revoke("cam-1")
    with Running(config) as device:
        wait_until(lambda: "may join again with a new token" in device.status.text, 10, "why it is not renewed")


def test_what_waits_for_the_hub_outlives_a_power_cut_of_the_broker(tmp_path: Path) -> None:
    """By mosquitto's own client, with the hub's files as they are written."""
    with Trial(tmp_path) as trial:
        hub, ca_file = trial.folder / "hub.pem", trial.folder / "ca.pem"
        listen = ["mosquitto_sub", "-h", trial.endpoint.host, "-p", str(trial.endpoint.port), "--cafile", ca_file]
        listen += ["--cert", hub, "--key", hub]
        listen += ["-V", "5", "-c", "-i", "hub", "-x", "86400", "-q", "1", "-t", "almena/1/+/up/audit", "-W", "60"]
        subprocess.run([*listen, "-E"], check=True, timeout=90)
        with session(trial.endpoint, trial.device("cam-1")) as device:
            for number in range(50):
                device.publish("almena/1/cam-1/up/audit", b"%d" % number)
            device.publish("almena/1/cam-1/up/clock", b"the broker has come around again, and written what came before")
        trial.stop(kill=True)
        trial.start()
        kept = subprocess.run([*listen, "-C", "50"], capture_output=True, text=True, timeout=90)
    assert [int(line) for line in kept.stdout.split()] == list(range(50))


def test_a_revoked_device_cannot_resume_its_tls_session(tmp_path: Path) -> None:
    """TLS 1.2 sends the ticket at once, and whoever is taken back with one shows no certificate (RFC 5077)."""
    with Trial(tmp_path) as trial:
        (tmp_path / "device.pem").write_bytes(trial.device("cam-1").pem)
        context = ssl.create_default_context(cadata=trial.authority.pem.decode())
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(tmp_path / "device.pem")

        def connect(known: ssl.SSLSession | None) -> ssl.SSLSession | None:
            address = (trial.endpoint.host, trial.endpoint.port)
            with context.wrap_socket(socket.create_connection(address, 30), server_hostname=address[0], session=known) as one:
                return one.session

        kept = connect(None)
        assert kept is not None
        assert kept.has_ticket
        trial.revoke("cam-1")
        with pytest.raises(ssl.SSLError):
            connect(kept)


def test_revoked_while_the_broker_is_down(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    pair = trial.device("cam-1")
    with pytest.raises(
        FleetError, match=r"^cam-1 is revoked in the register, and stays so; its session, .* not ended: .*\.pid: none runs here\)"
    ):
        trial.revoke("cam-1")
    (trial.folder / "crl.pem").rename(tmp_path / "crl.pem")
    with pytest.raises(FleetError, match=r"crl\.pem cannot be written .* still takes what is revoked: .*give the command again"):
        trial.revoke("cam-1")
    (tmp_path / "crl.pem").rename(trial.folder / "crl.pem")
    (trial.folder / "state" / "mosquitto.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(FleetError, match=r"cannot be told .*process \d+ is"):
        trial.revoke("cam-1")
    with trial:
        with pytest.raises(NotAcceptedError), session(trial.endpoint, pair):
            pass
        with session(trial.endpoint, trial.hub) as hub:
            assert trial.revoke("hub").certificates == 1
            assert hub.ended.wait(30)


def test_a_hub_that_was_revoked_comes_back_with_new_files(site: FleetSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.fleet.remember_broker(site.trial.folder)
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    with session(site.trial.endpoint, site.trial.hub) as hub:
        revoke("hub", site.fleet.folder, tmp_path / "passphrase")
        assert hub.ended.wait(30)
    assert (
        f"`almena fleet broker-config {site.trial.folder}` writes new certificates; give each hub its new file" in capsys.readouterr().out
    )
    with pytest.raises(NotAcceptedError), session(site.trial.endpoint, site.trial.hub):
        pass
    write_configuration(site.trial.folder, site.trial.broker, site.authority, site.register)
    with session(site.trial.endpoint, site.trial.hub):
        pass


def test_two_agents_with_one_identity_are_reported(site: FleetSite, config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two real uplinks: both say it, and so does whoever watches. (On two machines their boots tell it sooner.)"""
    copy = tmp_path / "copy"
    shutil.copytree(config.parent, copy)
    caplog.set_level(logging.INFO)
    stopping = threading.Event()
    watching = threading.Thread(target=watch, args=(site.fleet.settings.broker, site.authority, site.register, stopping))
    watching.start()
    try:
        wait_until(lambda: "watching 127.0.0.1" in caplog.text, 30, "the watch")
        with _agent(config, tmp_path / "one.log"), _agent(copy / config.name, tmp_path / "other.log"):
            wait_until(lambda: any(one[3] == "suspected" for one in site.register.decisions(10)), 60, "the suspicion")
            logs = (tmp_path / "one.log", tmp_path / "other.log")
            said = "another client may be using this device's name"
            wait_until(lambda: all(said in log.read_text() for log in logs), 30, "both to say it")
    finally:
        stopping.set()
        watching.join(30)
    assert re.search(r"cam-1: 6 connections within \d+ s: two agents may be using this name; `almena fleet revoke cam-1` ends", caplog.text)


@contextmanager
def _agent(config: Path, log: Path) -> Iterator[None]:
    """An uplink of its own process."""
    command = [sys.executable, "-m", "tests.fakes.uplinks", str(config)]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, cwd=Path(__file__).parents[2]) as process:
        try:
            yield
        finally:
            process.terminate()


def _subordinate(root: Authority, name: str) -> Authority:
    """A CA that another one has signed."""
    key = new_key()
    request = x509.load_pem_x509_csr(ca_request(name, key))
    builder = x509.CertificateBuilder().subject_name(request.subject).issuer_name(root.certificate.subject)
    builder = builder.public_key(request.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(root.certificate.not_valid_before_utc).not_valid_after(root.certificate.not_valid_after_utc)
    for extension in request.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in (builder.sign(root.key, hashes.SHA256()), root.certificate))
    return signed_by_others(pem, key)


def test_under_another_ca_its_other_subordinates_stay_outside(tmp_path: Path) -> None:
    """mosquitto trusts whatever the root has signed; what keeps others out is that there is a revocation list of this CA only."""
    root = Authority.new("Their root")
    root.certificate = _with_path(root)
    ours, *others = (_subordinate(root, name) for name in ("Almena fleet", "Almena fleet", "Another fleet"))
    with Trial(tmp_path, ours) as trial:
        with session(trial.endpoint, trial.device("cam-1")):
            pass
        for theirs in others:
            hub = theirs.client("hub", DAY)
            with pytest.raises(NotAcceptedError), session(trial.endpoint, _WithChain(hub.key, hub.certificate, theirs.pem)):
                pass
        with pytest.raises(NotAcceptedError), session(trial.endpoint, root.client("hub", DAY)):
            pass
        assert trial.revoke("cam-1").disconnected_s < 5.0


@dataclass(frozen=True)
class _WithChain(Pair):
    """One that brings the certificate of its CA."""

    above: bytes

    @property
    def pem(self) -> bytes:
        return super().pem + self.above


def _with_path(root: Authority) -> x509.Certificate:
    """The root's certificate, which allows one CA below it."""
    old = root.certificate
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer).public_key(root.key.public_key())
    builder = builder.serial_number(old.serial_number).not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(old.extensions.get_extension_for_class(x509.KeyUsage).value, critical=True)
    return builder.sign(root.key, hashes.SHA256())
