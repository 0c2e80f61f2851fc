"""Settings of sources, credentials, and the logic that needs no device: V4L2 modes, GStreamer, multipart."""

from __future__ import annotations

import itertools
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.errors import SourceError
from agent.vision.sources import v4l2
from agent.vision.sources.gstreamer import GStreamerSource
from agent.vision.sources.live import announced
from agent.vision.sources.mjpeg import MAX_PART, MjpegSource, MultipartParser
from agent.vision.sources.rtsp import RtspSource
from agent.vision.sources.v4l2 import V4l2Source, configure, device_path

pytestmark = pytest.mark.unit


def rtsp(**settings: object) -> Any:
    return RtspSource.Config.model_validate(settings)


def test_a_path_that_holds_parameters_is_not_shown() -> None:
    assert rtsp(url="rtsp://cam/user=admin_password=secret_channel=1.sdp").shown == "rtsp://cam/…"


def test_credentials_leave_the_address_and_every_text() -> None:
    config = rtsp(url="rtsp://viewer:p%40ss%2Fw%3Ard@cam.local:8554/main?token=t0ken")
    assert config.username == "viewer"
    assert config.secret() == "p@ss/w:rd"
    assert config.full_url() == "rtsp://viewer:p%40ss%2Fw%3Ard@cam.local:8554/main?token=t0ken"
    assert config.shown == "rtsp://cam.local:8554/main"
    texts = f"{config} {config!r} {config.model_dump()} {config.model_dump_json()} {RtspSource(config, 'x')!r}"
    assert "ss/w" not in texts
    assert "p%40" not in texts
    assert "t0ken" not in f"{config!r}"


def test_a_wrong_setting_does_not_show_the_address() -> None:
    with pytest.raises(ValidationError) as caught:
        rtsp(url="rtsp://viewer:s3cret@cam.local/main", timeout_s=-1, colour="red")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        rtsp(url="ftp://viewer:s3cret@cam.local/main")
    assert "s3cret" not in str(caught.value)


def test_the_password_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p w\n")
    config = rtsp(url="rtsp://cam/main", username="viewer", password_file=tmp_path / "password")
    assert config.full_url() == "rtsp://viewer:p%20w@cam/main"
    (tmp_path / "password").unlink()
    with pytest.raises(SourceError, match="cannot be read") as caught:
        config.full_url()
    assert caught.value.code == "STREAM_AUTH_FAILED"


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "rtsp://a:b@cam/main", "username": "c"},
        {"url": "rtsp://a@cam/main", "password_file": "/dev/null"},
        {"url": "rtsp://cam/main", "password": "x"},
        {"url": "http://cam/main"},
        {"url": "rtsp:///main"},
        {"url": "rtsp://cam:99999/main"},
        {"url": "rtsp://cam/main", "unknown": 1},
        {"url": ""},
        {"url": "rtsp://cam\n/main"},
        {"url": "rtsp://a:b\n@cam/main"},
        {"url": "rtsp://cam/ma in"},
        {"url": "rtsp://cam/main", "username": "a\nb"},
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        rtsp(**settings)


def test_an_ipv6_address_keeps_its_brackets() -> None:
    config = rtsp(url="rtsp://viewer:x@[fe80::1]:554/main")
    assert config.full_url() == "rtsp://viewer:x@[fe80::1]:554/main"
    assert config.shown == "rtsp://[fe80::1]:554/main"


def test_tls_is_verified_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    assert rtsp(url="rtsps://cam/x").ssl_context().verify_mode == ssl.CERT_REQUIRED
    assert rtsp(url="rtsps://cam/x", tls_verify=False).ssl_context().verify_mode == ssl.CERT_NONE
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(SourceError, match="holds no CA certificate") as caught:
        rtsp(url="rtsps://cam/x", ca_file=tmp_path / "ca.pem").ssl_context()
    assert caught.value.code == "STREAM_TLS_CERTIFICATE"
    assert rtsp(url="rtsps://cam/x").ca_bundle().is_file()


class Packet:
    """A packet of an FFmpeg demuxer; a bad one cannot be decoded."""

    def __init__(self, picture: str = "", stream: int = 0) -> None:
        self.picture = picture
        self.stream = SimpleNamespace(index=stream)

    def decode(self) -> list[str]:
        if not self.picture:
            raise av.error.InvalidDataError(1, "bad")
        return [self.picture]


class Container:
    def __init__(self, packets: list[Packet]) -> None:
        self.packets = packets

    def demux(self) -> list[Packet]:
        return self.packets


def test_sound_without_a_picture_is_a_timeout() -> None:
    source = RtspSource(rtsp(url="rtsp://cam/x", timeout_s=0.05), "door")
    source._container = SimpleNamespace(demux=lambda: (Packet("sound", stream=1) for _ in itertools.count()))
    with pytest.raises(SourceError) as caught:
        next(source._decode(SimpleNamespace(index=0)))
    assert caught.value.code == "STREAM_TIMEOUT"


def test_bad_packets_are_left_out_until_there_are_a_hundred_in_a_row() -> None:
    source = RtspSource(rtsp(url="rtsp://cam/x"), "door")
    bad = [Packet() for _ in range(99)]
    source._container = Container([*bad, Packet("one"), *bad, Packet("two"), *bad, Packet(), Packet("never")])
    pictures = source._decode(SimpleNamespace(index=0))
    assert [next(pictures), next(pictures)] == ["one", "two"]
    assert source.damaged == 99
    with pytest.raises(SourceError, match="100 packets in a row") as caught:
        next(pictures)
    assert caught.value.code == "STREAM_DAMAGED"


def test_without_its_library_rtsp_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"pip install 'almena\[rtsp\]'") as caught:
        RtspSource(rtsp(url="rtsp://cam/x"), "door").open()
    assert caught.value.code == "STREAM_LIBRARY_MISSING"


def test_a_camera_is_named_by_index_path_or_stable_name() -> None:
    assert device_path(2) == Path("/dev/video2")
    assert device_path("2") == Path("/dev/video2")
    assert device_path("/dev/video7") == Path("/dev/video7")
    assert device_path("usb-Cam_123-video-index0") == Path("/dev/v4l/by-id/usb-Cam_123-video-index0")


def test_a_missing_camera_is_explained() -> None:
    with pytest.raises(SourceError) as caught:
        V4l2Source(V4l2Source.Config(device=63), "door").open()
    assert caught.value.code == "STREAM_NOT_FOUND"
    assert "/dev/video63" in str(caught.value)
    assert "group `video`" in str(caught.value)


def test_a_camera_without_permission_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video0").touch()
    monkeypatch.setattr(v4l2.os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match="usermod -aG video") as caught:
        v4l2.check_device(tmp_path / "video0")
    assert caught.value.code == "STREAM_AUTH_FAILED"


def test_a_file_that_is_no_camera_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    with pytest.raises(SourceError, match="no camera that can be opened"):
        V4l2Source(V4l2Source.Config(device=str(tmp_path / "video0")), "door").open()


class Camera:
    """Takes settings as a V4L2 driver does: what it cannot do stays as it was."""

    def __init__(self, **fixed: float) -> None:
        self.fixed = {getattr(cv2, name): value for name, value in fixed.items()}
        self.values: dict[int, float] = {}
        self.order: list[int] = []

    def set(self, name: int, value: float) -> bool:
        self.order.append(name)
        self.values[name] = self.fixed.get(name, value)
        return name not in self.fixed

    def get(self, name: int) -> float:
        return float(self.values.get(name, 0.0))


def test_the_pixel_format_is_set_before_size_and_rate() -> None:
    camera = Camera()
    assert configure(camera, V4l2Source.Config()) == []
    assert camera.order == [
        cv2.CAP_PROP_FOURCC,
        cv2.CAP_PROP_FRAME_WIDTH,
        cv2.CAP_PROP_FRAME_HEIGHT,
        cv2.CAP_PROP_FPS,
        cv2.CAP_PROP_BUFFERSIZE,
    ]
    assert camera.values[cv2.CAP_PROP_BUFFERSIZE] == 1


def test_what_the_camera_does_otherwise_is_said() -> None:
    camera = Camera(CAP_PROP_FRAME_WIDTH=640, CAP_PROP_FPS=15, CAP_PROP_FOURCC=cv2.VideoWriter.fourcc(*"YUYV"))
    assert configure(camera, V4l2Source.Config()) == [
        "width 1280 was asked for, the camera gives 640",
        "rate 30 was asked for, the camera gives 15",
        "MJPEG was asked for, the camera gives another format",
    ]


def test_without_mjpeg_the_camera_keeps_its_format() -> None:
    camera = Camera()
    assert configure(camera, V4l2Source.Config(mjpeg=False)) == []
    assert cv2.CAP_PROP_FOURCC not in camera.order


class Capture:
    """Gives one picture after another; None is one that cannot be decoded, and at the end no frame comes."""

    def __init__(self, *pictures: object) -> None:
        self.pictures = list(pictures)

    def grab(self) -> bool:
        return bool(self.pictures)

    def retrieve(self) -> tuple[bool, object]:
        picture = self.pictures.pop(0)
        return picture is not None, picture


def camera_with(*pictures: object, device: Path) -> V4l2Source:
    source = V4l2Source(V4l2Source.Config(device=str(device)), "door")
    source._capture = Capture(*pictures)
    return source


def test_a_damaged_picture_of_a_camera_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    source = camera_with(None, image, *[None] * 49, image, *[None] * 50, device=tmp_path)
    assert [source.read().index, source.read().index] == [0, 1]
    assert source.damaged == 50
    with pytest.raises(SourceError, match="50 pictures in a row") as caught:
        source.read()
    assert caught.value.code == "STREAM_DAMAGED"
    assert len(caplog.records) == 1


def test_a_silent_camera_is_told_from_one_that_was_unplugged(tmp_path: Path) -> None:
    codes = []
    for device in (tmp_path, tmp_path / "gone"):
        with pytest.raises(SourceError) as caught:
            camera_with(device=device).read()
        codes.append(caught.value.code)
    assert codes == ["STREAM_TIMEOUT", "STREAM_LOST"]


def test_a_stable_name_is_looked_up_at_each_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []

    class Closed:
        def __init__(self, path: str, api: int) -> None:
            opened.append((path, api))

        def isOpened(self) -> bool:
            return False

        def release(self) -> None:
            pass

    monkeypatch.setattr(v4l2, "BY_ID", tmp_path)
    monkeypatch.setattr(cv2, "VideoCapture", Closed)
    source = V4l2Source(V4l2Source.Config(device="usb-Cam-index0"), "door")
    for node in ("video0", "video2"):
        (tmp_path / node).touch()
        (tmp_path / "usb-Cam-index0").unlink(missing_ok=True)
        (tmp_path / "usb-Cam-index0").symlink_to(tmp_path / node)
        with pytest.raises(SourceError, match="perhaps another program uses it"):
            source.open()
    assert opened == [(str(tmp_path / "video0"), cv2.CAP_V4L2), (str(tmp_path / "video2"), cv2.CAP_V4L2)]


@pytest.mark.parametrize(("rate", "believed"), [(25.0, 25.0), (0.5, 0.5), (0.0, None), (-1.0, None), (90000.0, None), (float("nan"), None)])
def test_a_rate_that_cannot_be_is_not_believed(rate: float, believed: float | None) -> None:
    assert announced(rate) == believed


def test_a_pipeline_becomes_arguments_as_in_a_shell_but_without_one() -> None:
    def words(pipeline: str) -> list[str]:
        return list(GStreamerSource.Config(pipeline=pipeline).words)

    assert words("a ! video/x-raw, format=(string)BGR ! appsink drop=1 max-buffers=1 sync=false") == [
        "a", "!", "video/x-raw,", "format=(string)BGR",
    ]  # fmt: skip
    assert words("a text='$(b) c' ! appsinker\n") == ["a", "text=$(b) c", "!", "appsinker"]
    csi = GStreamerSource.Config.model_validate({"csi": {"sensor_id": 1, "width": 1920, "height": 1080, "rate": 60}})
    caps = "video/x-raw(memory:NVMM),width=1920,height=1080,format=NV12,framerate=60/1"
    assert csi.words == ["nvarguscamerasrc", "sensor-id=1", "!", caps, "!", "nvvidconv", "!", "video/x-raw,format=I420"]


@pytest.mark.parametrize(
    "settings", [{}, {"pipeline": "videotestsrc", "csi": {}}, {"pipeline": " "}, {"pipeline": "! appsink"}, {"pipeline": "s3cret 'a"}]
)
def test_gstreamer_settings_that_cannot_work(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        GStreamerSource.Config.model_validate(settings)
    assert "s3cret" not in str(caught.value)


def test_a_pipeline_may_hold_a_password_so_its_repr_is_hidden() -> None:
    config = GStreamerSource.Config(pipeline="rtspsrc location=rtsp://x user-pw=s3cret ! decodebin ! appsink drop=1")
    assert "s3cret" not in repr(config)


PARTS = [b"one", b"\r\n--edge\r\n"[:7] + b"tricky", bytes(range(256)) * 3]


def stream(parts: list[bytes], length: bool) -> bytes:
    text = b"--edge\r\n"
    for part in parts:
        head = b"Content-Type: image/jpeg\r\n" + (b"content-length: %d\r\n" % len(part) if length else b"")
        text += head + b"\r\n" + part + b"\r\n--edge\r\n"
    return text


@settings(deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=60), length=st.booleans())
def test_multipart_is_read_however_it_is_cut(cuts: list[int], length: bool) -> None:
    data, parser, found, start = stream(PARTS, length), MultipartParser("edge"), [], 0
    for cut in cuts:
        found += parser.feed(data[start : start + cut])
        start += cut
    found += parser.feed(data[start:])
    assert found == PARTS


def test_some_cameras_repeat_the_dashes_in_the_boundary() -> None:
    assert MultipartParser("--edge").feed(stream([b"one"], True)) == [b"one"]


@pytest.mark.parametrize(
    "data",
    [b"<html>" * 5000, b"--edge\r\nContent-Length: 999999999\r\n\r\n", b"--edge\r\n\r\n" + bytes(MAX_PART + 1)],
)
def test_multipart_that_grows_beyond_measure_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"multipart|longer"):
        MultipartParser("edge").feed(data)


def test_mjpeg_takes_http_only() -> None:
    with pytest.raises(ValidationError, match="must be http://host/path"):
        MjpegSource.Config(url="rtsp://cam/x")
