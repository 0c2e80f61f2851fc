"""Who may talk to the page: Host, Origin, TLS, login."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

import h11
import httpx
import pytest
from starlette.types import Message

from agent.errors import AlmenaError
from agent.http.guard import SESSION_CHECK_S
from agent.http.passwords import hash_password
from agent.serving import MAX_CONNECTIONS, WITHIN_S
from agent.settings import LoginSettings, WebSettings
from agent.tls_settings import WebTlsSettings
from agent.uplink.web.app import serve
from agent.uplink.web.context import WebContext
from agent.uplink.web.guard import Guard
from tests.fakes.certificates import Authority
from tests.fakes.small_site import SmallSite
from tests.fakes.small_uplink import telemetry

PASSWORD = "correct horse"
HASH = hash_password(PASSWORD)
WITHOUT_BODY = b"POST /api/1/identities HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSite]:
    web = WebSettings(port=0, allowed_hosts=("almena.example",))
    with SmallSite(tmp_path_factory.mktemp("open"), web) as site:
        yield site


@pytest.fixture
def closed_site(tmp_path: Path) -> Iterator[SmallSite]:
    pair = Authority(tmp_path / "tls").server()
    web = WebSettings(
        host="127.0.0.1", port=0, tls=WebTlsSettings(cert_file=pair.cert, key_file=pair.key), login=LoginSettings(password_hash=HASH)
    )
    with SmallSite(tmp_path / "state", web) as site:
        yield site


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5", "0.0.0.0", "", "localhost@evil.example", "[::1", "evil.example:80"]
)
def test_another_host_is_misdirected(open_site: SmallSite, host: str) -> None:
    for path in ("/", "/api/1/events", "/healthz", "/static/app.js"):
        assert open_site.client.get(path, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8642", "almena.example", "ALMENA.example:443", "localhost."])
def test_our_own_hosts_are_served(open_site: SmallSite, host: str) -> None:
    assert open_site.client.get("/healthz", headers={"Host": host}).status_code == 200


def test_no_or_two_hosts_are_refused(open_site: SmallSite) -> None:
    address = httpx.URL(open_site.server.url)
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection((address.host, address.port or 0), timeout=60) as raw:
            raw.sendall(b"GET /healthz HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
            status = raw.recv(4096).split(b" ")[1]
        assert status in (b"400", b"421")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_another_origin_is_refused_for_reading_and_writing(open_site: SmallSite, origin: str) -> None:
    assert open_site.client.get("/api/1/health", headers={"Origin": origin}).status_code == 403
    assert open_site.client.post("/api/1/identities", json={"name": "Eve"}, headers={"Origin": origin}).status_code == 403
    assert open_site.vision.faces.records == {}


def test_our_own_origin_is_served(open_site: SmallSite) -> None:
    origin = open_site.server.url.rstrip("/")
    assert open_site.client.get("/api/1/health", headers={"Origin": origin}).status_code == 200


def test_other_sites_may_link_to_the_page_but_not_embed_it(open_site: SmallSite) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert open_site.client.get("/", headers=link).status_code == 200
    assert open_site.client.get("/", headers={**link, "Sec-Fetch-Dest": "iframe"}).status_code == 403
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert open_site.client.get("/api/1/streams/door/snapshot.jpg", headers=image).status_code == 403
    assert open_site.client.post("/api/1/config/reload", headers={**link, "Sec-Fetch-Site": "same-site"}).status_code == 403


def test_headers_against_scripts_and_frames(open_site: SmallSite) -> None:
    for path in ("/", "/static/app.js", "/api/1/health", "/nothing"):
        headers = open_site.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_static_files_cannot_be_left(open_site: SmallSite) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert open_site.client.get(path).status_code == 404


def test_nothing_without_login_but_the_form_and_the_probes(closed_site: SmallSite) -> None:
    client = closed_site.client
    assert client.get("/").status_code == 303
    assert client.get("/").headers["location"] == "/login"
    for path in ("/api/1/events", "/api/1/streams/door/live.mjpg", "/metrics", "/api", "/api/1/openapi.json", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
    for path in ("/login", "/static/login.js", "/healthz", "/readyz"):
        assert client.get(path).status_code == 200


def test_login_session_and_logout(closed_site: SmallSite) -> None:
    client = closed_site.client
    assert client.post("/api/1/login", json={"username": "admin", "password": "wrong"}).status_code == 401
    answer = client.post("/api/1/login", json={"username": "admin", "password": PASSWORD})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-almena=")
    for part in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert part in cookie
    token = client.cookies["__Host-almena"]
    assert client.get("/api/1/health").json()["login"] is True
    assert client.get("/").status_code == 200
    assert client.post("/api/1/logout").status_code == 204
    assert client.get("/api/1/events").status_code == 401
    assert client.get("/api/1/events", headers={"Cookie": f"__Host-almena={token}"}).status_code == 401, (
        "the session is gone, not only its cookie"
    )


def test_scripts_send_basic_credentials(closed_site: SmallSite) -> None:
    assert closed_site.client.get("/metrics", auth=("admin", PASSWORD)).status_code == 200
    assert closed_site.client.get("/metrics", auth=("admin", "wrong")).status_code == 401


def test_guessing_is_rate_limited(closed_site: SmallSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.http.passwords.FREE_FAILURES", -9)  # a first pause that is long enough for any machine
    client = closed_site.client
    wrong = b64encode(b"admin:wrong").decode()
    guesses = [{"Authorization": f"Basic {wrong}", "X-Forwarded-For": f"192.0.2.{number}"} for number in range(3)]
    assert [client.get("/metrics", headers=guess).status_code for guess in guesses] == [401, 429, 429]
    answer = client.post("/api/1/login", json={"username": "admin", "password": PASSWORD})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert client.get("/metrics", auth=("admin", PASSWORD)).status_code == 429


@pytest.mark.parametrize("path", ["/api/1/events/live", "/api/1/streams/door/live.mjpg"])
def test_live_answers_end_with_their_session(closed_site: SmallSite, path: str, caplog: pytest.LogCaptureFixture) -> None:
    client = closed_site.client
    client.post("/api/1/login", json={"username": "admin", "password": PASSWORD})
    with client.stream("GET", path) as answer:
        parts = answer.iter_raw()
        began, logged_out = time.monotonic(), False
        for _ in parts:
            if not logged_out and time.monotonic() - began > SESSION_CHECK_S + 0.5:
                logged_out = client.post("/api/1/logout").status_code == 204
                began = time.monotonic()
            assert time.monotonic() - began < 15 * SESSION_CHECK_S
    assert logged_out
    assert not caplog.records


def test_silent_callers_shut_nobody_out(open_site: SmallSite) -> None:
    address = httpx.URL(open_site.server.url)
    with ExitStack() as silent:
        for number in range(MAX_CONNECTIONS + 10):
            raw = silent.enter_context(socket.create_connection((address.host, address.port or 0), timeout=60))
            raw.sendall((b"", b"GET /healthz HTTP/1.1\r\n", WITHOUT_BODY)[number % 3])
        for _ in range(3):
            assert httpx.get(f"{open_site.server.url}healthz", timeout=60).status_code == 200


@pytest.mark.parametrize(("begun", "state"), [(b"", h11.IDLE), (b"GET / HTTP/1.1\r\n", h11.IDLE), (WITHOUT_BODY, h11.SEND_BODY)])
def test_a_request_that_does_not_come_is_not_waited_for(
    open_site: SmallSite, begun: bytes, state: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WITHIN_S, state, 0.3)
    address = httpx.URL(open_site.server.url)
    with socket.create_connection((address.host, address.port or 0), timeout=60) as raw:
        raw.sendall(begun)
        with suppress(ConnectionResetError):
            assert raw.recv(4096) == b""


def test_web_sockets_are_refused(open_site: SmallSite) -> None:
    async def never(*_: object) -> NoReturn:
        raise AssertionError("passed on")

    async def knock() -> list[Message]:
        said: list[Message] = []

        async def send(message: Message) -> None:
            said.append(message)

        await Guard(never, open_site.settings.web, None)({"type": "websocket", "path": "/", "headers": []}, never, send)
        return said

    assert asyncio.run(knock()) == [{"type": "websocket.close"}]


def test_only_tls_is_spoken(closed_site: SmallSite) -> None:
    assert closed_site.server.url.startswith("https://")
    address = httpx.URL(closed_site.server.url)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{address.port}/healthz", timeout=60)
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection(("127.0.0.1", address.port or 0), 60) as raw:
        context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_an_address_that_is_taken_or_foreign_is_a_clear_error(open_site: SmallSite, tmp_path: Path) -> None:
    port = httpx.URL(open_site.server.url).port or 0
    for web, words in ((WebSettings(port=port), "choose another web.port"), (_unguarded("192.0.2.1"), "cannot be served")):
        settings = open_site.settings.model_copy(update={"web": web})
        with pytest.raises(AlmenaError, match=words):
            serve(WebContext(settings, open_site.outbox, open_site.status, telemetry))


def test_a_broken_certificate_is_a_clear_error(open_site: SmallSite, tmp_path: Path) -> None:
    broken = tmp_path / "cert.pem"
    broken.write_text("rubbish")
    web = WebSettings(port=0, tls=WebTlsSettings(cert_file=broken, key_file=broken))
    with pytest.raises(AlmenaError, match=r"web\.tls"):
        serve(WebContext(open_site.settings.model_copy(update={"web": web}), open_site.outbox, open_site.status, telemetry))


def _unguarded(host: str) -> WebSettings:
    return WebSettings.model_construct(**{**WebSettings().model_dump(), "host": host, "tls": None, "login": None})
