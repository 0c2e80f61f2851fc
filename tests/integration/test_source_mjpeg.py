"""The MJPEG source against a real HTTP server."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from agent.backoff import Backoff
from agent.errors import SourceError
from agent.vision.health import HealthSettings
from agent.vision.running_source import RunningSource
from agent.vision.sources.mjpeg import MjpegSource
from tests.fakes.certificates import Authority
from tests.waiting import wait_until

PASSWORD = "p@ss/w:rd"
REALM, NONCE = "camera", "5f1e"


def jpeg(number: int) -> bytes:
    ok, data = cv2.imencode(".jpg", np.full((48, 64, 3), 10 + number % 200, np.uint8))
    assert ok
    return bytes(data.tobytes())


def enlarged(data: bytes) -> bytes:
    """The same JPEG, with a header that announces 65,000 x 65,000 pixels."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + b"\xfd\xe8\xfd\xe8" + data[place + 4 :]


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


class Camera(BaseHTTPRequestHandler):
    """Streams at /video; every other path is one way in which cameras disappoint."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/basic":
            wanted = "Basic " + base64.b64encode(f"viewer:{PASSWORD}".encode()).decode()
            return self._stream() if self.headers.get("Authorization") == wanted else self._refuse('Basic realm="camera"')
        if path == "/digest":
            return self._stream() if self._digest() else self._refuse(f'Digest realm="{REALM}", nonce="{NONCE}"')
        ways: dict[str, Callable[[], None]] = {
            "/video": self._stream,
            "/lengthless": lambda: self._stream(length=False),
            "/corrupt": lambda: self._stream(corrupt=True),
            "/truncated": lambda: self._stream(change=lambda body: body[:-20]),
            "/huge": lambda: self._stream(change=enlarged),
            "/short": lambda: self._stream(count=3),
            "/silent": lambda: self._stream(count=2, hang=True),
            "/dripping": self._drip,
            "/page": lambda: self._answer(200, "text/html", b"<html></html>"),
            "/busy": lambda: self._answer(503, "text/plain", b"too many viewers"),
        }
        return ways.get(path, lambda: self._answer(404, "text/plain", b"no"))()

    def _digest(self) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]+)"?', self.headers.get("Authorization", "")))
        expected = md5(f"{md5(f'viewer:{REALM}:{PASSWORD}')}:{NONCE}:{md5('GET:/digest')}")
        return given.get("response") == expected

    def _refuse(self, challenge: str) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(
        self,
        *,
        length: bool = True,
        corrupt: bool = False,
        count: int = 10**9,
        hang: bool = False,
        change: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", 'multipart/x-mixed-replace; boundary="edge"')
        self.end_headers()
        try:
            for number in range(count):
                body = change(jpeg(number)) if not corrupt or number % 2 else b"\xff\xd8 broken"
                head = f"Content-Length: {len(body)}\r\n" if length else ""
                self.wfile.write(f"--edge\r\nContent-Type: image/jpeg\r\n{head}\r\n".encode() + body + b"\r\n")
                if self.server.closing.wait(0.005):
                    return
            if hang:
                self.server.closing.wait(30)
        except OSError:
            return

    def _drip(self) -> None:
        """One picture, then a byte now and then that never becomes another."""
        self._stream(count=1)
        try:
            while not self.server.closing.wait(0.1):
                self.wfile.write(b" ")
        except OSError:
            return

    def log_message(self, *_: Any) -> None:
        """Tests print nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", port), Camera)
        self.closing = threading.Event()
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news here."""

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.stop()


def source(url: str, **settings: object) -> MjpegSource:
    return MjpegSource(MjpegSource.Config.model_validate({"url": url, "timeout_s": 30, **settings}), "yard")


def refused(one: MjpegSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        one.open()
    one.close()
    return caught.value


def levels(one: MjpegSource, count: int) -> list[int]:
    one.open()
    frames = [one.read() for _ in range(count)]
    one.close()
    one.close()
    assert [frame.index for frame in frames] == list(range(count))
    return [round(frame.image.mean()) for frame in frames]


@pytest.mark.parametrize("path", ["/video", "/lengthless"])
def test_it_plays_every_picture(server: Server, path: str) -> None:
    assert levels(source(server.url(path)), 10) == list(range(10, 20))


def test_broken_pictures_are_left_out(server: Server) -> None:
    assert levels(source(server.url("/corrupt")), 3) == [11, 13, 15]


@pytest.mark.parametrize(("path", "reason"), [("/truncated", "the JPEG is truncated"), ("/huge", "65000x65000 pixels")])
def test_a_camera_that_sends_nothing_but_broken_pictures_says_what_is_wrong_with_them(server: Server, path: str, reason: str) -> None:
    one = source(server.url(path))
    one.open()
    with pytest.raises(SourceError, match=reason) as caught:
        one.read()
    one.close()
    assert caught.value.code == "STREAM_DAMAGED"


def test_broken_pictures_show_in_the_health_and_not_line_after_line_in_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    one = RunningSource(source(server.url("/corrupt")), lambda health: None, limits=HealthSettings(frozen_after_s=0, covered_after_s=0))
    one.start()
    try:
        wait_until(lambda: one.health().failed >= 5 and one.health().captured >= 5, 5, "pictures of both kinds")
    finally:
        one.stop()
    assert len([record for record in caplog.records if "left out" in record.getMessage()]) == 1


def test_connecting_again_and_again_leaks_nothing(server: Server) -> None:
    one = source(server.url("/video"))
    process = psutil.Process()
    server_side = threading.active_count()
    for number in range(15):
        one.open()
        one.read()
        one.close()
        wait_until(lambda: threading.active_count() <= server_side, 5, "the server's thread")
        if number == 1:
            before = process.num_fds()
    wait_until(lambda: process.num_fds() <= before, 5, "the files to be closed")


@pytest.mark.parametrize("path", ["/basic", "/digest"])
def test_credentials(server: Server, path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert levels(source(server.url(path), username="viewer", password=PASSWORD), 2) == [10, 11]
    error = refused(source(server.url(path + "?token=t0ken").replace("://", "://viewer:s3cret@")))
    assert error.code == "STREAM_AUTH_FAILED"
    assert refused(source(server.url(path))).code == "STREAM_AUTH_FAILED"
    said = f"{error} {error!r} " + "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("agent", "httpx")))
    assert "s3cret" not in said
    assert "t0ken" not in said


@pytest.mark.parametrize(
    ("path", "code"), [("/nothing", "STREAM_NOT_FOUND"), ("/page", "STREAM_CODEC_UNSUPPORTED"), ("/busy", "STREAM_LOST")]
)
def test_answers_that_are_no_stream(server: Server, path: str, code: str) -> None:
    assert refused(source(server.url(path))).code == code


def test_no_server_and_no_such_host(server: Server) -> None:
    gone = Server()
    gone.stop()
    assert refused(source(gone.url("/video"))).code == "STREAM_NOT_FOUND"
    assert refused(source("http://no-such-host.invalid/video")).code == "STREAM_NOT_FOUND"


@pytest.mark.parametrize(("path", "code"), [("/short", "STREAM_LOST"), ("/silent", "STREAM_TIMEOUT"), ("/dripping", "STREAM_TIMEOUT")])
def test_a_stream_that_ends_is_told_from_one_that_falls_silent(server: Server, path: str, code: str) -> None:
    one = source(server.url(path), timeout_s=30 if code == "STREAM_LOST" else 2)
    one.open()
    with pytest.raises(SourceError) as caught:
        list(iter(one.read, None))
    one.close()
    assert caught.value.code == code


def test_tls_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server = Server(tls=context)
    try:
        error = refused(source(server.url("/video")))
        assert error.code == "STREAM_TLS_CERTIFICATE"
        assert "ca_file" in str(error)
        assert levels(source(server.url("/video"), ca_file=authority.cert), 2) == [10, 11]
        assert levels(source(server.url("/video"), tls_verify=False), 2) == [10, 11]
    finally:
        server.stop()


def test_it_reconnects_when_the_server_comes_back() -> None:
    server = Server()
    heard: list[tuple[str, str]] = []
    limits = HealthSettings(frozen_after_s=0, covered_after_s=0)
    one = RunningSource(
        source(server.url("/video")),
        lambda health: heard.append((health.state, health.code)),
        limits=limits,
        backoff=Backoff(base_s=0.05, cap_s=0.2),
    )
    one.start()
    try:
        wait_until(lambda: one.next(0.1), 5, "a frame")
        server.stop()
        wait_until(lambda: heard[-1][0] == "failed", 5, "the loss")
        server = Server(server.server_port)
        wait_until(lambda: heard[-1] == ("running", ""), 5, "running again")
        assert one.health().reconnects_last_hour == 1
    finally:
        one.stop()
        server.stop()
