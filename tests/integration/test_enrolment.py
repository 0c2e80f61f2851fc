"""`almena join` against a real enrolment server: what it takes, and what goes wrong on the way."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from agent import settings
from agent.identity import client
from agent.identity.errors import IdentityError
from agent.identity.folder import IdentityFolder
from agent.identity.keys import Pair, new_key, request_for
from agent.identity.protocol import Token
from agent.identity.renewal import renew
from provisioning import watch
from provisioning.ca import Authority, write_private
from provisioning.limits import RateLimit
from tests.fakes.agent_process import ALMENA
from tests.fakes.fleet_site import PASSPHRASE, FleetSite
from tests.fakes.ports import free_port
from tests.waiting import wait_until

GUESSES, GUESSERS = 400, 40


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FleetSite]:
    with FleetSite(tmp_path / "fleet") as one:
        yield one


def test_a_device_joins_and_keeps_the_settings_that_it_had(site: FleetSite, tmp_path: Path) -> None:
    config = tmp_path / "almena.yaml"
    config.write_text("# mine\nstate_dir: here\nmqtt: {host: old, username: u, password_file: gone, keepalive_s: 7}\n")
    joined = site.join(config)
    folder = IdentityFolder(tmp_path / "here" / "identity")
    assert {path.name for path in folder.path.iterdir()} == {"ca.pem", "device.pem"}
    assert folder.pair().name == joined.name == "cam-1"
    loaded = settings.load(config)
    assert loaded == joined.settings
    assert loaded.mqtt is not None
    assert (loaded.device.name, loaded.mqtt.host, loaded.mqtt.port) == ("cam-1", "127.0.0.1", site.trial.broker.port)
    assert (loaded.mqtt.keepalive_s, loaded.mqtt.username) == (7, None)
    assert config.read_text().startswith("# mine\n")
    again = site.join(config)
    assert again.name == "cam-1"
    assert [known.name for known in site.register.devices()] == ["cam-1"]


def test_a_token_that_was_used_says_what_to_do(site: FleetSite, tmp_path: Path) -> None:
    token = site.token("cam-1")
    site.joining(tmp_path / "a.yaml").by_token(token)
    (tmp_path / "other").mkdir()
    with pytest.raises(IdentityError, match=r"admits nobody.*ask for another \(`almena fleet invite NAME`\)"):
        site.joining(tmp_path / "other" / "almena.yaml").by_token(token)
    assert not (tmp_path / "other" / "almena.yaml").exists()


@pytest.mark.parametrize(
    ("holds_s", "name", "secret", "why"),
    [
        (-1.0, "cam-1", None, "the token has expired"),
        (60.0, "cam-2", None, "there is no invitation for this name"),
        (60.0, "cam-1", bytes(32), "the token is wrong, or replaced by a later one"),
    ],
)
def test_a_token_that_admits_nobody_is_one_answer_to_the_device_and_a_reason_to_the_operator(
    site: FleetSite, tmp_path: Path, holds_s: float, name: str, secret: bytes | None, why: str
) -> None:
    invited = site.register.invite("cam-1", holds_s)
    with pytest.raises(IdentityError, match=r"admits nobody: it may be used, expired, replaced or for another name; ask for another"):
        site.joining(tmp_path / "almena.yaml").by_token(str(Token(name, secret or invited, site.authority.pin)))
    assert site.register.decisions(1)[0][1:5] == ("join", name, "refused", why)
    assert not (tmp_path / "almena.yaml").exists()


def test_a_request_for_another_name_or_with_a_weak_key_is_refused_and_uses_no_token_up(site: FleetSite) -> None:
    token = Token.parse(site.token("cam-1"))
    weak = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cam-1")]))
    requests = {
        "must be the common name cam-1": request_for("hub", new_key()),
        "must be on P-256": weak.sign(rsa.generate_private_key(65537, 1024), hashes.SHA256()).public_bytes(Encoding.PEM).decode(),
    }
    for why, request in requests.items():
        body = json.dumps({"name": "cam-1", "secret": token.secret_text, "request": request}).encode()
        status, said = _post(site, "127.0.0.1", "join", body)
        assert status == 403
        assert why in json.loads(said)["detail"]
    body = json.dumps({"name": "cam-1", "secret": token.secret_text, "request": request_for("cam-1", new_key())}).encode()
    assert _post(site, "127.0.0.1", "join", body)[0] == 200


def test_a_power_cut_before_a_renewed_certificate_is_written(site: FleetSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has given it out: the device asks with the same key, and gets the same one."""
    folder = IdentityFolder(site.join(tmp_path / "almena.yaml").settings.identity_dir)
    with monkeypatch.context() as patch:
        write = IdentityFolder.write

        def cut(this: IdentityFolder, path: Path, content: bytes) -> None:
            if path == this.next:
                raise KeyboardInterrupt
            write(this, path, content)

        patch.setattr(IdentityFolder, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            renew(site.url, folder, folder.pair())
    assert folder.renewed() is None
    given = site.register.newest("cam-1")
    again = renew(site.url, folder, folder.pair())
    assert isinstance(again, Pair)
    assert given is not None
    assert again.certificate.serial_number == given.serial != folder.pair().certificate.serial_number
    assert site.register.newest("cam-1") == given


def test_another_ca_than_the_pinned_one_gets_no_token(site: FleetSite, tmp_path: Path) -> None:
    token = Token("cam-1", site.register.invite("cam-1", 60.0), Authority.new("Almena fleet").pin)
    with pytest.raises(IdentityError, match=r"not the one of the token.*Nothing was sent.*almena fleet ca show"):
        site.joining(tmp_path / "almena.yaml").by_token(str(token))
    assert site.register.decisions(10) == []


def test_a_server_that_shows_the_ca_and_is_not_of_it_gets_no_token(site: FleetSite, tmp_path: Path) -> None:
    """Somebody in between knows the CA's certificate, as everybody may, and has none that it signed."""
    file = site.fleet.folder / "server.pem"
    write_private(file, Authority.new("Almena fleet").server(["127.0.0.1"], timedelta(days=1)).pem)
    _await_certificate(site, file)
    with pytest.raises(IdentityError, match="is not accepted"):
        site.join(tmp_path / "almena.yaml")
    assert site.register.decisions(10) == []
    site.server._renew_at = 0.0
    site.server.look()
    _await_certificate(site, file)
    assert site.join(tmp_path / "almena.yaml").name == "cam-1"


def _await_certificate(site: FleetSite, file: Path) -> None:
    address = ("127.0.0.1", site.server.port)
    wait_until(lambda: ssl.get_server_certificate(address, timeout=60).encode() in file.read_bytes(), 3, "the certificate")


@pytest.mark.parametrize("days", [-20 * 365, -0.1, 0.1, 20 * 365])
def test_a_clock_that_is_wrong_is_told_and_uses_no_token_up(
    site: FleetSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    token, config = site.token("cam-1"), tmp_path / "almena.yaml"
    with monkeypatch.context() as patch:
        patch.setattr(client, "time", SimpleNamespace(time=lambda: time.time() + days * 86400))
        with pytest.raises(IdentityError, match=r"the clock of this device says .* that of the server .*timedatectl set-ntp true"):
            site.joining(config).by_token(token)
    assert site.register.decisions(10) == []
    assert site.joining(config).by_token(token).name == "cam-1"


def test_the_commands_as_processes(site: FleetSite, tmp_path: Path) -> None:
    """`almena fleet enrol-server` and `almena join`."""
    site.trial.start()
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    port, fleet = free_port(), ["--dir", str(site.fleet.folder), "--passphrase-file", str(tmp_path / "passphrase")]
    command = [ALMENA, "fleet", "enrol-server", "--watch", "--host", "127.0.0.1", "--port", str(port), *fleet]
    token, config = site.token("cam-1"), tmp_path / "almena.yaml"
    join = [ALMENA, "join", f"https://127.0.0.1:{port}", token, "--config", str(config)]
    with (tmp_path / "log").open("w") as told, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True) as server:
        assert server.stdout is not None
        ready = server.stdout.readline()
        try:
            joined = subprocess.run(join, capture_output=True, text=True, timeout=150)
            wait_until(lambda: "watching" in (tmp_path / "log").read_text(), 30, "the watch")
            second = subprocess.run([ALMENA, "fleet", "watch", *fleet], capture_output=True, text=True, timeout=150)
        finally:
            server.terminate()
        server.wait(60)
    log = (tmp_path / "log").read_text()
    assert "devices may join at" in ready
    assert (joined.returncode, joined.stderr) == (0, "")
    assert f"127.0.0.1:{site.trial.broker.port} accepts this device" in joined.stdout
    assert server.returncode == 0
    assert "join cam-1 from 127.0.0.1: issued" in log
    assert f"watching 127.0.0.1:{site.trial.broker.port}" in log
    assert token.split(".")[1] not in joined.stdout + log
    assert second.returncode == 1
    assert f"process {server.pid} watches this fleet already" in second.stderr
    assert log.count("watching") == 1, "nobody took its session"


def test_who_cannot_watch_yet_does_so_once_the_other_has_ended(site: FleetSite, caplog: pytest.LogCaptureFixture) -> None:
    """An enrolment server that starts while somebody looks serves, and waits with that."""
    stopping, begun = threading.Event(), threading.Event()

    def watching() -> None:
        begun.set()
        stopping.wait(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "AGAIN_S", 0.02)
        with watch.sole_watch(site.fleet.folder):
            turn = threading.Thread(target=watch.watch_in_turn, args=(site.fleet.folder, watching, stopping))
            turn.start()
            wait_until(lambda: "watches this fleet already" in caplog.text, 30, "it to say that it waits")
            assert not begun.is_set()
        try:
            assert begun.wait(30)
            with pytest.raises(watch.WatchedError), watch.sole_watch(site.fleet.folder):
                pass
        finally:
            stopping.set()
            turn.join(30)
    assert caplog.text.count("watches this fleet already") == 1
    with watch.sole_watch(site.fleet.folder):
        assert not turn.is_alive()


def test_a_claim_of_the_factory(site: FleetSite, tmp_path: Path) -> None:
    key = new_key()
    certificate = site.authority.claim("claim.batch-1", key.public_key(), timedelta(days=1))
    site.register.add(certificate, "claim", certificate.public_bytes(Encoding.PEM))
    claim = tmp_path / "claim.pem"
    claim.write_bytes(Pair(key, certificate).pem + site.authority.pem)
    with pytest.raises(IdentityError, match="once it is approved"):
        site.joining(tmp_path / "almena.yaml").by_claim(claim, "cam-1", 0.0)
    told: list[str] = []

    def approve(text: str) -> None:
        told.append(text)
        if len(told) == 1:
            _spend_all(site, "127.0.0.1")
            return
        site.enrolment.limit = RateLimit()
        (request,) = site.register.requests()
        site.register.decide(request.id, "approved")

    joined = site.joining(tmp_path / "almena.yaml", approve).by_claim(claim, "cam-1", 30.0)
    assert joined.name == "cam-1"
    assert "almena fleet approve" in told[0]
    assert "too many requests from this address" in told[1]
    assert told[1].endswith("; asking again")
    claim.write_bytes(site.authority.pem)
    with pytest.raises(IdentityError, match="no claim of"):
        site.joining(tmp_path / "almena.yaml").by_claim(claim, "cam-2", 0.0)


def test_guesses_at_once_and_one_after_the_other_are_not_heard_and_keep_nobody_out(site: FleetSite, tmp_path: Path) -> None:
    site.register.invite("cam-9", 60.0)
    request = request_for("cam-9", new_key())
    body = json.dumps({"name": "cam-9", "secret": "A" * 43, "request": request}).encode()
    answers: list[int] = []
    begun = threading.Barrier(GUESSERS + 1)

    def guess() -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", site.server.port, context=ssl._create_unverified_context(), timeout=60)
        begun.wait(60)
        for _ in range(GUESSES // GUESSERS):
            connection.request("POST", "/enrol/1/join", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            answers.append(response.status)
        connection.close()

    guessers = [threading.Thread(target=guess) for _ in range(GUESSERS)]
    for thread in guessers:
        thread.start()
    began = time.monotonic()
    begun.wait(60)
    joined = _join_from("127.0.0.2", site, "cam-1")
    for thread in guessers:
        thread.join(120)
    assert joined == 200
    assert len(answers) == GUESSES
    assert set(answers) == {403, 429}
    heard = [one for one in site.register.decisions(GUESSES) if one[3] == "refused"]
    assert answers.count(403) == len(heard) <= 10 + (time.monotonic() - began) / 6, "ten at once, and one in six seconds"
    _spend_all(site, "127.0.0.1")
    assert _join_from("127.0.0.1", site, "cam-2") == 429
    assert [one.name for one in site.register.devices()] == ["cam-1"]


def test_what_is_too_long_counts_as_wrong(site: FleetSite, caplog: pytest.LogCaptureFixture) -> None:
    assert any(_post(site, "127.0.0.3", "join", b"x" * 20000)[0] == 429 for _ in range(40))
    assert "/enrol/1/join from 127.0.0.3: refused: The request is too large" in caplog.messages


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("join", b"{}", 400), ("join", b"[" * 9000, 400), ("renew", b"x" * 20000, 413), ("claim", b"", 400), ("nothing", b"", 404)],
)
def test_what_is_no_request_is_refused(site: FleetSite, path: str, body: bytes, status: int) -> None:
    assert _post(site, "127.0.0.1", path, body)[0] == status


def _spend_all(site: FleetSite, address: str) -> None:
    """It is not heard for an hour."""
    site.enrolment.limit = RateLimit(every_s=3600.0)
    while not site.enrolment.limit.take(address)[0]:
        pass


def _join_from(address: str, site: FleetSite, name: str) -> int:
    token = Token.parse(site.token(name))
    request = request_for(name, new_key())
    return _post(site, address, "join", json.dumps({"name": name, "secret": token.secret_text, "request": request}).encode())[0]


def _post(site: FleetSite, address: str, path: str, body: bytes) -> tuple[int, bytes]:
    context = ssl.create_default_context(cadata=site.authority.pem.decode())
    connection = http.client.HTTPSConnection("127.0.0.1", site.server.port, context=context, timeout=60, source_address=(address, 0))
    connection.request("POST", f"/enrol/1/{path}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content
