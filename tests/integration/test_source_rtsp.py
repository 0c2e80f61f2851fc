"""The RTSP source against GStreamer's RTSP server."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent.backoff import Backoff
from agent.errors import SourceError
from agent.vision.health import HealthSettings
from agent.vision.sources.rtsp import RtspSource
from tests.fakes.certificates import Authority
from tests.fakes.ports import free_port
from tests.fakes.rtsp_process import Server
from tests.fakes.running import Start, running_sources
from tests.waiting import wait_until

PASSWORD = "p@ss/w:rd"


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*options: str, port: int = 0) -> Server:
        servers.append(Server(*options, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def source(url: str, **settings: object) -> RtspSource:
    return RtspSource(RtspSource.Config.model_validate({"url": url, "timeout_s": 30, **settings}), "door")


def refused(one: RtspSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        one.open()
    one.close()
    return caught.value


@pytest.mark.parametrize("encoder", ["h264", "jpeg"])
def test_it_plays(serve: Callable[..., Server], encoder: str) -> None:
    camera = source(serve("--encoder", encoder).url)
    camera.open()
    frames = [camera.read() for _ in range(10)]
    assert [frame.index for frame in frames] == list(range(10))
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
    # GStreamer's `ball` pattern: a white ball on black.
    assert frames[-1].image.max() > 180
    assert frames[-1].image.mean() < 60
    assert (frames[0].image != frames[-1].image).any()
    assert camera.expected_per_second == pytest.approx(25, abs=1)
    camera.close()
    camera.close()


def test_credentials_open_it_and_stay_out_of_every_text(serve: Callable[..., Server], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve("--user", "viewer", "--password", PASSWORD)
    camera = source(server.url, username="viewer", password=PASSWORD)
    camera.open()
    assert camera.read().image.shape == (240, 320, 3)
    camera.close()
    error = refused(source(server.url.replace("://", "://viewer:s3cret@")))
    assert error.code == "STREAM_AUTH_FAILED"
    assert "check username and password" in str(error)
    said = f"{error} {error!r} {error.__cause__} {caplog.text}"
    assert "s3cret" not in said
    assert error.__suppress_context__
    assert refused(source(server.url)).code == "STREAM_AUTH_FAILED"


def test_a_missing_path_a_closed_port_and_an_unknown_host_are_not_found(serve: Callable[..., Server]) -> None:
    server = serve()
    assert refused(source(server.url.replace("camera", "nothing"))).code == "STREAM_NOT_FOUND"
    assert refused(source(f"rtsp://127.0.0.1:{free_port()}/camera")).code == "STREAM_NOT_FOUND"
    error = refused(source("rtsp://no-such-host.invalid/camera"))
    assert error.code == "STREAM_NOT_FOUND"
    assert "no-such-host.invalid is not known" in str(error)


@pytest.mark.parametrize("content", ["audio", "unknown"])
def test_a_stream_without_decodable_video_says_so(serve: Callable[..., Server], content: str) -> None:
    assert refused(source(serve("--encoder", content).url)).code == "STREAM_CODEC_UNSUPPORTED"


def test_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert refused(source(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/camera", timeout_s=1)).code == "STREAM_TIMEOUT"


def test_a_server_that_falls_silent_times_out(serve: Callable[..., Server]) -> None:
    server = serve()
    camera = source(server.url, timeout_s=4)
    camera.open()
    camera.read()
    server.send(signal.SIGSTOP)
    with pytest.raises(SourceError) as caught:
        list(iter(camera.read, None))
    camera.close()
    assert caught.value.code == "STREAM_TIMEOUT"


def test_tls_is_verified(serve: Callable[..., Server], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.server()
    server = serve("--tls", str(pair.cert), str(pair.key), "--user", "viewer", "--password", PASSWORD)
    url = server.url.replace("rtsp:", "rtsps:")
    error = refused(source(url, username="viewer", password=PASSWORD))
    assert error.code == "STREAM_TLS_CERTIFICATE"
    assert "ca_file" in str(error)
    other = Authority(tmp_path / "other", "Other CA").cert
    assert refused(source(url, username="viewer", password=PASSWORD, ca_file=other)).code == "STREAM_TLS_CERTIFICATE"
    for settings in ({"ca_file": authority.cert}, {"tls_verify": False}):
        camera = source(url, username="viewer", password=PASSWORD, **settings)
        camera.open()
        assert camera.read().image.shape == (240, 320, 3)
        camera.close()


@pytest.fixture
def run() -> Iterator[Start]:
    with running_sources(backoff=Backoff(base_s=0.2, cap_s=0.5)) as start:
        yield start


def test_it_reconnects_when_the_server_is_killed_and_comes_back(serve: Callable[..., Server], run: Start) -> None:
    server = serve()
    one, heard = run(source(server.url))
    wait_until(lambda: one.next(0.1), 10, "a frame")
    server.kill()
    wait_until(lambda: heard[-1][0] == "failed", 10, "the loss")
    assert heard[1][1] in ("STREAM_LOST", "STREAM_NOT_FOUND")
    serve(port=server.port)
    wait_until(lambda: heard[-1] == ("running", ""), 15, "running again")
    before = one.health().captured
    wait_until(lambda: one.health().captured > before + 5, 10, "frames that flow")
    assert one.health().reconnects_last_hour == 1


def test_a_stalled_server_is_told_from_a_lost_one_and_heals(serve: Callable[..., Server], run: Start) -> None:
    server = serve()
    one, heard = run(source(server.url, timeout_s=60), limits=HealthSettings(stale_after_s=2.5))
    wait_until(lambda: one.next(0.1), 10, "a frame")
    server.send(signal.SIGSTOP)
    wait_until(lambda: heard[-1] == ("failed", "STREAM_TIMEOUT"), 10, "the watchdog")
    server.send(signal.SIGCONT)
    wait_until(lambda: heard[-1] == ("running", ""), 10, "running again")
    assert one.health().stalls_last_hour >= 1
    assert one.health().reconnects_last_hour == 0


@pytest.mark.parametrize(
    ("pattern", "code"),
    [("checkers-8", "STREAM_FROZEN"), ("black", "STREAM_COVERED"), ("blue", "STREAM_COVERED"), ("snow", ""), ("ball", "")],
)
def test_pictures_are_judged_through_a_real_encoder(serve: Callable[..., Server], run: Start, pattern: str, code: str) -> None:
    limits = HealthSettings(frozen_after_s=1, covered_after_s=0.8, check_period_s=0.05)
    one, heard = run(source(serve("--pattern", pattern).url), limits=limits)
    if code:
        wait_until(lambda: heard and heard[-1][1] == code, 10, code)
    else:
        wait_until(lambda: one.health().captured > 60, 15, "more than two seconds of frames")
        assert heard == [("running", "")]


def test_fifty_failed_tries_leak_nothing() -> None:
    camera = source(f"rtsp://127.0.0.1:{free_port()}/camera")
    refused(camera)
    process = psutil.Process()
    files, threads = process.num_fds(), threading.active_count()
    native = process.num_threads()
    for _ in range(50):
        refused(camera)
    wait_until(lambda: process.num_fds() <= files, 5, "the files to be closed")
    wait_until(lambda: threading.active_count() == threads, 5, "the threads to end")
    wait_until(lambda: process.num_threads() <= native + 1, 5, "FFmpeg's threads to end")


def test_restarts_of_the_server_leak_nothing(serve: Callable[..., Server]) -> None:
    port, process = free_port(), psutil.Process()
    camera = source(f"rtsp://127.0.0.1:{port}/camera")
    for number in range(6):
        server = serve("--encoder", "jpeg", port=port)
        camera.open()
        assert camera.read().image.shape == (240, 320, 3)
        server.kill()
        with pytest.raises(SourceError):
            list(iter(camera.read, None))
        camera.close()
        if number == 1:
            before = process.num_fds(), process.num_threads()
    wait_until(lambda: process.num_fds() <= before[0], 5, "the files to be closed")
    wait_until(lambda: process.num_threads() <= before[1], 5, "FFmpeg's threads to end")
