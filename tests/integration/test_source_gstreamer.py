"""The GStreamer source on real pipelines."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from agent.backoff import Backoff
from agent.datatypes import Frame
from agent.errors import SourceError
from agent.vision.sources.gstreamer import GStreamerSource
from tests.fakes.rtsp_process import Server
from tests.fakes.running import Start, running_sources
from tests.waiting import wait_until

RED = (0, 0, 255)
STALLED = "appsrc ! video/x-raw,format=I420,width=64,height=48,framerate=25/1"


def ball(width: int = 320, height: int = 240, count: int = -1) -> str:
    """A white ball that moves on black, 25 pictures a second."""
    return f"videotestsrc pattern=ball is-live=true num-buffers={count} ! video/x-raw,width={width},height={height},framerate=25/1"


def source(pipeline: str, **settings: object) -> GStreamerSource:
    return GStreamerSource(GStreamerSource.Config.model_validate({"pipeline": pipeline, "timeout_s": 60, **settings}), "line")


def children() -> list[psutil.Process]:
    """Living children of this process; zombies count too."""
    return [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE or "gst-launch" in child.name()]


@pytest.fixture
def opened() -> Iterator[Callable[..., GStreamerSource]]:
    sources: list[GStreamerSource] = []

    def start(pipeline: str, **settings: object) -> GStreamerSource:
        sources.append(source(pipeline, **settings))
        sources[-1].open()
        return sources[-1]

    yield start
    for one in sources:
        one.close()
    assert children() == []


def read(one: GStreamerSource) -> Frame:
    frame = one.read()
    assert frame is not None
    return frame


def refused(one: GStreamerSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        one.open()
    one.close()
    assert children() == []
    return caught.value


def broken(one: GStreamerSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        list(iter(one.read, None))
    return caught.value


@pytest.mark.parametrize(("width", "height"), [(320, 240), (321, 241), (322, 242), (324, 240), (1, 1), (15, 2)])
@pytest.mark.parametrize("tail", ["", " ! videoconvert ! video/x-raw, format=(string)BGR ! appsink drop=1 max-buffers=1 sync=false"])
def test_it_plays_every_size(opened: Callable[..., GStreamerSource], width: int, height: int, tail: str) -> None:
    one = opened(f"videotestsrc pattern=red is-live=true ! video/x-raw,width={width},height={height},framerate=25/1{tail}")
    frames = [read(one) for _ in range(3)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    for frame in frames:
        assert frame.image.shape == (height, width, 3)
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - RED).max() <= 4
    assert one.expected_per_second == 25


@pytest.mark.parametrize("caps", ["format=BGR", "format=I420,colorimetry=bt709", "format=I420,colorimetry=(string)1:4:0:0"])
def test_colours_are_right_whatever_the_matrix_of_the_pipeline(opened: Callable[..., GStreamerSource], caps: str) -> None:
    one = opened(f"videotestsrc pattern=red is-live=true ! video/x-raw,width=1280,height=720,framerate=10/1,{caps}")
    assert np.abs(read(one).image.astype(int) - RED).max() <= 4


def test_what_a_plug_in_prints_does_not_harm_the_pictures(opened: Callable[..., GStreamerSource]) -> None:
    one = opened(f"{ball()} ! tee name=t ! queue ! fdsink fd=1 t. ! queue")
    for _ in range(5):
        image = read(one).image
        assert image.shape == (240, 320, 3)
        assert image.max() > 180
        assert image.mean() < 60


def test_a_pipeline_that_talks_all_the_time_neither_blocks_nor_fills_the_memory(
    opened: Callable[..., GStreamerSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GST_DEBUG", "5")
    one = opened(ball(count=12))
    assert one._child is not None
    for _ in range(10):
        read(one)
    said = one._child.said
    assert 30 <= len(said) <= 31
    assert max(map(len, said)) <= 500
    assert len(str(broken(one))) < 500


def test_a_slow_reader_gets_the_newest_picture(opened: Callable[..., GStreamerSource]) -> None:
    one = opened(ball(1280, 720, count=50))
    read(one)
    paused = time.monotonic()
    wait_until(lambda: time.monotonic() - paused > 1.2, 5, "thirty pictures")
    assert "reached the end" in str(broken(one))
    assert 0 < one._index < 45, "fifty, if none is dropped"


@pytest.mark.parametrize(
    ("pipeline", "code", "words"),
    [
        ("nosuchelement ! videoconvert", "STREAM_LIBRARY_MISSING", "no element nosuchelement"),
        ("videotestsrc ! ! videoconvert", "STREAM_NOT_FOUND", "syntax error"),
        ("videotestsrc colour=red", "STREAM_NOT_FOUND", 'no property "colour"'),
        ("audiotestsrc", "STREAM_NOT_FOUND", "could not link"),
        ("v4l2src device=/dev/video63", "STREAM_NOT_FOUND", "Cannot identify device '/dev/video63'"),
        ("filesrc location=/no/such/file ! decodebin", "STREAM_NOT_FOUND", 'No such file "/no/such/file"'),
        ("fakesrc", "STREAM_CODEC_UNSUPPORTED", "not-negotiated"),
        ("--version", "STREAM_NOT_FOUND", "does not start"),
    ],
)
def test_a_pipeline_that_does_not_start_says_why(pipeline: str, code: str, words: str) -> None:
    error = refused(source(pipeline))
    assert (error.code, words in str(error)) == (code, True), error
    assert not error.fatal


def test_a_pipeline_that_has_failed_and_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hangs = tmp_path / "gst-launch-1.0"
    hangs.write_text(f"#!/bin/sh\ntrap '' INT\n{shutil.which('gst-launch-1.0')} \"$@\"\nsleep 300 &\nexec sleep 300\n")
    hangs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    error = refused(source("fakesrc", timeout_s=120))
    assert (error.code, "not-negotiated" in str(error)) == ("STREAM_CODEC_UNSUPPORTED", True), error
    one = source(f"{ball(64, 48)} ! identity error-after=5", timeout_s=120)
    one.open()
    assert one._child is not None
    child = psutil.Process(one._child._process.pid)
    error = broken(one)
    assert (error.code, "Failed after iterations" in str(error)) == ("STREAM_LOST", True), error
    assert child.is_running()
    started = {helper.pid for helper in child.children()}
    assert started
    one.close()
    assert not child.is_running()
    wait_until(lambda: not started & {one.pid for one in psutil.process_iter(["status"]) if one.info["status"] != "zombie"}, 30, "its end")


def test_what_a_pipeline_has_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hangs = tmp_path / "gst-launch-1.0"
    hangs.write_text(f"#!/bin/sh\n(trap '' INT; exec sleep 300) &\necho helper $!\nexec {shutil.which('gst-launch-1.0')} \"$@\"\n")
    hangs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for crashes in (False, True):
        one = source(ball(64, 48), timeout_s=120)
        one.open()
        assert one._child is not None
        helper = psutil.Process(next(int(line.split()[1]) for line in one._child.said if line.startswith("helper")))
        read(one)
        if crashes:
            psutil.Process(one._child._process.pid).kill()
        one.close()
        wait_until(lambda gone=helper: not gone.is_running() or gone.status() == "zombie", 30, "its end")


def test_a_csi_camera_needs_jetpack_and_its_pipeline_has_the_right_grammar(opened: Callable[..., GStreamerSource]) -> None:
    csi = GStreamerSource.Config.model_validate({"csi": {"sensor_id": 1, "width": 640, "height": 360, "rate": 15}})
    error = refused(GStreamerSource(csi, "csi"))
    assert error.code == "STREAM_LIBRARY_MISSING"
    assert "nvarguscamerasrc" in str(error)
    assert "JetPack" in str(error)
    assert csi.csi is not None
    stand_in = csi.csi.pipeline.replace("nvarguscamerasrc sensor-id=1", "videotestsrc is-live=true").replace("(memory:NVMM)", "")
    one = opened(stand_in.replace("nvvidconv", "videoconvert"))
    assert read(one).image.shape == (360, 640, 3)
    assert one.expected_per_second == 15


def test_credentials_stay_out_of_the_message() -> None:
    said = str(refused(source("filesrc location=http://viewer:s3cret@cam.local/x?token=t0ken ! decodebin")))
    assert 'No such file "http://cam.local/…"' in said
    said = str(refused(source("souphttpsrc user-pw = s3cret ! fakesink videotestsrc num-buffers=s3cret")))
    assert 'could not set property "num-buffers"' in said
    assert "s3cret" not in said


def test_no_shell_sees_the_pipeline(tmp_path: Path) -> None:
    refused(source(f"videotestsrc num-buffers=1 ; touch {tmp_path}/a | touch {tmp_path}/b $(touch {tmp_path}/c)"))
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_that_cannot_be_an_argument_leaks_nothing() -> None:
    one = source("videotestsrc name=a\0b")
    files = psutil.Process().num_fds()
    with pytest.raises(ValueError, match="null"):
        one.open()
    one.close()
    assert psutil.Process().num_fds() == files


def test_without_gst_launch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(source(ball()))
    assert error.code == "STREAM_LIBRARY_MISSING"
    assert "gstreamer1.0-tools" in str(error)


def test_a_pipeline_that_gives_nothing_times_out() -> None:
    error = refused(source(STALLED, timeout_s=0.5))
    assert error.code == "STREAM_TIMEOUT"
    assert "0.5 s" in str(error)


def test_a_pipeline_that_stalls_times_out_and_is_ended_although_it_does_not_answer(opened: Callable[..., GStreamerSource]) -> None:
    one = opened(ball())
    read(one)
    one.config = one.config.model_copy(update={"timeout_s": 0.5})
    (child,) = children()
    child.suspend()
    assert broken(one).code == "STREAM_TIMEOUT"
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 30
    assert not child.is_running()


def test_a_child_that_is_killed_is_a_loss_that_names_the_signal(opened: Callable[..., GStreamerSource]) -> None:
    one = opened(ball())
    read(one)
    children()[0].kill()
    error = broken(one)
    assert error.code == "STREAM_LOST"
    assert "SIGKILL" in str(error)


def test_a_plug_in_that_crashes_ends_its_process_only(opened: Callable[..., GStreamerSource]) -> None:
    one = opened(ball())
    read(one)
    children()[0].send_signal(signal.SIGSEGV)
    assert "SIGSEGV" in str(broken(one))


@pytest.mark.parametrize(("first", "second"), [("320", "640"), ("640", "320")])
def test_a_picture_that_changes_its_size_is_noticed(opened: Callable[..., GStreamerSource], first: str, second: str) -> None:
    parts = [f"videotestsrc num-buffers={count} ! video/x-raw,width={width},height=240 ! c." for width, count in ((first, 2), (second, 99))]
    error = broken(opened(f"{' '.join(parts)} concat name=c ! identity"))
    assert error.code == "STREAM_LOST"
    assert "changed its size" in str(error)


def test_twenty_restarts_leak_nothing(opened: Callable[..., GStreamerSource]) -> None:
    one = opened(ball(64, 48, count=1))
    for number in range(22):
        assert broken(one).code == "STREAM_LOST"
        one.close()
        one.close()
        if number == 1:
            process = psutil.Process()
            before = process.num_fds(), process.num_threads()
        one.open()
    one.close()
    wait_until(lambda: process.num_fds() <= before[0], 5, "the files to be closed")
    wait_until(lambda: process.num_threads() <= before[1], 5, "the threads to end")


@pytest.mark.parametrize("pipeline", [ball(), STALLED])
def test_the_pipeline_dies_with_a_killed_parent(pipeline: str) -> None:
    code = (
        "import sys; from agent.vision.sources.gstreamer import GStreamerSource as S\n"
        "s = S(S.Config(pipeline=sys.argv[1]), 'x'); s._limited = lambda step: True; s.open()\n"
        "print(s._child._process.pid, flush=True); input()"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code, pipeline], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, text=True)
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: "gst-launch" in child.name(), 5, "the pipeline")
        parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5, "its end")


@pytest.fixture
def run() -> Iterator[Start]:
    with running_sources(backoff=Backoff(base_s=0.2, cap_s=0.5)) as start:
        yield start
    assert children() == []


def test_a_whole_stream_keeps_its_rate_and_heals(run: Start) -> None:
    running, heard = run(source(ball()))
    wait_until(lambda: running.health().captured > 60, 10, "pictures")
    health = running.health()
    assert (health.width, health.height, health.expected_per_second) == (320, 240, 25)
    wait_until(lambda: running.health().captured_per_second == pytest.approx(25, abs=4), 10, "the camera's rate")
    for times, crash in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        os.kill(children()[0].pid, crash)
        wait_until(lambda: heard.count(("failed", "STREAM_LOST")) == times, 5, "the loss")  # noqa: B023
        wait_until(lambda: heard[-1] == ("running", ""), 5, "running again")
    assert running.health().reconnects_last_hour == 2


def test_a_stream_that_ends_is_started_again_for_ever(run: Start) -> None:
    running, heard = run(source(ball(count=5)))
    wait_until(lambda: heard.count(("failed", "STREAM_LOST")) >= 3, 15, "three ends")
    assert heard[:4] == [("running", ""), ("failed", "STREAM_LOST")] * 2
    assert running.health().captured >= 5


@pytest.mark.parametrize("pipeline", [ball(), STALLED])
def test_a_stop_ends_the_pipeline_soon(run: Start, pipeline: str) -> None:
    running, heard = run(source(pipeline))
    wait_until(children, 5, "the pipeline")
    started = time.monotonic()
    running.stop()
    assert time.monotonic() - started < 30
    assert children() == []
    assert ("failed", "STREAM_LOST") not in heard


def test_it_plays_a_real_rtsp_camera_and_loses_it(opened: Callable[..., GStreamerSource]) -> None:
    server = Server("--encoder", "jpeg")
    try:
        one = opened(f"rtspsrc location={server.url} protocols=tcp latency=0 ! rtpjpegdepay ! jpegdec")
        images = [read(one).image for _ in range(10)]
        assert {image.shape for image in images} == {(240, 320, 3)}
        assert images[-1].max() > 180
        assert (images[0] != images[-1]).any()
    finally:
        server.kill()
    assert broken(one).code == "STREAM_LOST"
