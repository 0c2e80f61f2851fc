"""The video source on files that are made here."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from agent.errors import SourceError
from agent.vision.sources.video import VideoSource

pytestmark = pytest.mark.unit


def clip(path: Path, frames: int = 20, rate: float = 25.0) -> Path:
    """Frame n is n x 10 bright, up to 25 frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), number * 10 % 250, np.uint8))
    writer.release()
    return path


def source(path: Path, **settings: object) -> VideoSource:
    return VideoSource(VideoSource.Config.model_validate({"path": path, "pace": "fast", **settings}), "clip")


def test_every_frame_once_in_order_with_derived_times(tmp_path: Path) -> None:
    video = source(clip(tmp_path / "a.avi"))
    video.open()
    frames = [video.read() for _ in range(21)]
    assert frames.pop() is None
    video.close()
    assert [frame.index for frame in frames] == list(range(20))
    assert [round(frame.image.mean() / 10) for frame in frames] == list(range(20))
    assert [frame.media_s for frame in frames] == pytest.approx([number / 25 for number in range(20)])
    first = frames[0]
    assert [frame.captured_at - first.captured_at for frame in frames] == pytest.approx([number / 25 for number in range(20)], abs=1e-4)
    assert time.monotonic_ns() - 5e9 < first.mono_ns < frames[-1].mono_ns < time.monotonic_ns()
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert video.expected_per_second is None


def test_real_pace_takes_as_long_as_the_recording(tmp_path: Path) -> None:
    video = source(clip(tmp_path / "a.avi"), pace="real")
    started = time.monotonic()
    video.open()
    assert video.expected_per_second == 25
    for number in range(20):
        frame = video.read()
        assert time.monotonic() - started >= number / 25 - 0.02
    assert frame.captured_at == pytest.approx(time.time(), abs=5)
    video.close()


def test_a_loop_goes_on_with_growing_index_and_time(tmp_path: Path) -> None:
    video = source(clip(tmp_path / "a.avi", frames=5), loop=True)
    video.open()
    frames = [video.read() for _ in range(12)]
    video.close()
    assert [frame.index for frame in frames] == list(range(12))
    assert [round(frame.image.mean() / 10) for frame in frames] == [0, 1, 2, 3, 4] * 2 + [0, 1]
    assert np.diff([frame.captured_at for frame in frames]) == pytest.approx(0.04, abs=1e-3)
    assert frames[5].media_s == pytest.approx(0)


def test_a_pause_of_the_reader_is_not_made_up_by_rushing(tmp_path: Path) -> None:
    video = source(clip(tmp_path / "a.avi"), pace="real")
    video.open()
    video.read()
    video._opened_mono_ns -= int(5e9)
    started = time.monotonic()
    late = video.read()
    following = video.read()
    assert time.monotonic() - started > 0.02
    assert following.captured_at - late.captured_at == pytest.approx(0.04, abs=1e-3)
    video.close()


def test_a_stop_wakes_a_paced_read(tmp_path: Path) -> None:
    video = source(clip(tmp_path / "a.avi", rate=0.1), pace="real")
    video.open()
    video.read()
    video.interrupt()
    started = time.monotonic()
    assert video.read() is None
    assert time.monotonic() - started < 8
    video.close()


def test_a_file_that_is_no_video_is_an_error_that_no_retry_heals(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"not a video" * 1000)
    video = source(path)
    with pytest.raises(SourceError, match="not a video that FFmpeg can decode") as caught:
        video.open()
    assert caught.value.code == "STREAM_CODEC_UNSUPPORTED"
    assert caught.value.fatal


@pytest.mark.parametrize("loop", [False, True])
def test_a_file_that_breaks_off_is_an_error_not_an_end(tmp_path: Path, loop: bool) -> None:
    path = clip(tmp_path / "a.avi", frames=100)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    video = source(path, loop=loop)
    video.open()
    with pytest.raises(SourceError, match="is damaged: it ends after") as caught:
        list(iter(video.read, None))
    assert caught.value.code == "STREAM_DAMAGED"
    assert caught.value.fatal is not loop
    video.close()


def test_a_file_that_is_gone_is_not_found_and_may_come_back(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.avi")
    video = source(path)
    path.unlink()
    with pytest.raises(SourceError, match="there is no file") as caught:
        video.open()
    assert caught.value.code == "STREAM_NOT_FOUND"
    assert not caught.value.fatal
    clip(path)
    video.open()
    assert video.read() is not None
    video.close()


def test_the_settings_want_an_existing_file(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="there is no file"):
        source(tmp_path / "missing.mp4")
