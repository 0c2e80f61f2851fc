"""The example settings are those of the code, and every line of them is valid."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.example import example
from agent.registry import SOURCES, TASKS
from agent.settings import MqttSettings, Settings, load

pytestmark = pytest.mark.unit

COMMITTED = Path(__file__).parents[2] / "almena.example.yaml"
FILES = ("clip.mp4", "dicom.token", "ca.pem", "device.pem", "device.key", "mqtt.password")


def uncommented(text: str) -> str:
    """The text with one layer of commented settings in force."""
    return re.sub(r"^(\s*)# (?!#)", r"\1", text, flags=re.MULTILINE)


def _load(folder: Path, text: str) -> Settings:
    for name in FILES:
        (folder / name).touch()
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "almena.yaml").write_text(text)
    return load(folder / "almena.yaml")


def test_the_committed_file_is_the_generated_one() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == example(), "run `make docs` and commit almena.example.yaml"


def test_it_is_written_where_one_asks(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "agent.example", "--write", str(tmp_path / "x.yaml")], cwd=COMMITTED.parent, check=True)
    assert (tmp_path / "x.yaml").read_text(encoding="utf-8") == example()


def test_as_it_is_it_holds_the_defaults(tmp_path: Path) -> None:
    settings = _load(tmp_path, example())
    default = Settings.model_validate({"state_dir": tmp_path / "almena-state", "streams": settings.streams})
    assert settings == default
    assert [stream.source.type for stream in settings.streams] == ["v4l2"]
    assert [task.type for task in settings.streams[0].tasks] == ["faces"]


def test_with_all_sections_it_is_valid_and_shows_every_source(tmp_path: Path) -> None:
    settings = _load(tmp_path, uncommented(example()))
    assert {stream.source.type for stream in settings.streams} == set(SOURCES)
    assert {task.type for stream in settings.streams for task in stream.tasks} == set(TASKS)
    assert settings.mqtt is not None
    assert settings.mqtt.model_copy(update={"tls": None}) == MqttSettings()
    assert settings.web.tls is not None
    assert settings.web.login is not None
    assert settings.gallery.key_file is not None


def test_options_within_optional_sections_are_valid_too(tmp_path: Path) -> None:
    mqtt = uncommented(uncommented(example())).partition("\nmqtt:")[2].partition("\n\n")[0]
    one_password = re.sub(r"^\s*password: .*\n", "", uncommented(mqtt), flags=re.MULTILINE)
    settings = _load(tmp_path, f"mqtt:{one_password}\n")
    assert settings.mqtt is not None
    assert settings.mqtt.username == "almena"
    assert settings.mqtt.tls is not None
    assert settings.mqtt.tls.ca_file == tmp_path / "ca.pem"


def test_every_setting_of_the_core_is_named() -> None:
    names = set(re.findall(r"^[\s#]*([a-z_]+):", example(), re.MULTILINE))
    missing = {name for model in (Settings, MqttSettings) for name in model.model_fields} - names
    assert missing == set()
