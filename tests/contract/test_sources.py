"""What every source in the registry keeps to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.config import Config
from agent.errors import SourceError
from agent.registry import SOURCES, resolve
from agent.settings import Settings
from agent.vision.base import Source

PATHLESS = "nothing-here"


def nonsense(name: str, folder: Path) -> dict[str, Any]:
    """Settings that are valid, and that nothing answers to."""
    (folder / "broken.mp4").write_bytes(b"no video")
    return {
        "v4l2": {"device": str(folder / PATHLESS)},
        "gstreamer": {"pipeline": "nosuchelement ! appsink"},
        "rtsp": {"url": f"rtsp://127.0.0.1:1/{PATHLESS}", "timeout_s": 2},
        "video": {"path": str(folder / "broken.mp4")},
        "folder": {"path": str(folder / PATHLESS)},
        "dicom": {},
        "mjpeg": {"url": f"http://127.0.0.1:1/{PATHLESS}", "timeout_s": 2},
    }[name]


@pytest.fixture(params=sorted(SOURCES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(name: str, tmp_path: Path) -> Source:
    kind = resolve(SOURCES, name, "source")
    one = kind(kind.Config.model_validate(nonsense(name, tmp_path)), "test")
    assert isinstance(one, Source)
    (tmp_path / "studies").write_text("no folder")
    one.prepare(Settings(state_dir=tmp_path))
    return one


def test_its_settings_are_its_own_and_described(name: str) -> None:
    config = resolve(SOURCES, name, "source").Config
    assert issubclass(config, Config)
    assert config.model_fields["type"].default == name
    assert config.__doc__
    assert [key for key, field in config.model_fields.items() if not field.description] == ["type"]


def test_it_says_in_advance_whether_it_is_finite(source: Source) -> None:
    assert source.finite in (True, False)
    assert source.expected_per_second is None or source.expected_per_second > 0


def test_a_source_that_is_not_there_is_a_source_error_each_time(source: Source) -> None:
    for _ in range(2):
        with pytest.raises(SourceError) as caught:
            source.open()
        source.close()
        assert caught.value.code.startswith("STREAM_")
        assert len(str(caught.value)) > 20


def test_failing_again_and_again_leaks_neither_files_nor_threads(source: Source) -> None:
    def fail() -> None:
        with pytest.raises(SourceError):
            source.open()
        source.close()

    for _ in range(3):
        fail()
    process = psutil.Process()
    files, threads = process.num_fds(), process.num_threads()
    for _ in range(30):
        fail()
    assert process.num_fds() <= files
    assert process.num_threads() <= threads


def test_closing_twice_or_before_opening_does_no_harm(source: Source) -> None:
    source.close()
    source.close()


def test_marks_of_items_that_it_never_gave_do_no_harm(source: Source) -> None:
    source.done("never given")
    source.failed("never given", "because")


def test_an_unknown_setting_is_refused(name: str, tmp_path: Path) -> None:
    config = resolve(SOURCES, name, "source").Config
    with pytest.raises(ValueError, match="nonsense_key"):
        config.model_validate({**nonsense(name, tmp_path), "nonsense_key": 1})


def test_its_settings_load_no_heavy_library(name: str) -> None:
    module = SOURCES[name].partition(":")[0]
    code = f"import sys, {module}; print(*sorted({{'cv2', 'av', 'httpx', 'onnxruntime', 'openvino'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == ""
