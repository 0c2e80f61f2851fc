"""What doctor and passports tell of tunings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.checkup.tunings import tunings
from agent.commands import models as command
from agent.settings import Settings, load
from calibration.tuner import Tuner
from engines.card import card
from engines.model import recipe
from engines.tuning import Choice, Tuning, fingerprint, kept, save
from tests.fakes.paced import Site

pytestmark = pytest.mark.unit

CHOICE = Choice(backend="onnxruntime", unit="cpu", precision="fp32", policy="throughput")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "almena.yaml"
    (tmp_path / "clip.mp4").touch()
    stream = "{name: door, source: {type: video, path: clip.mp4}, tasks: [{type: faces}]}"
    path.write_text(f"state_dir: state\nstreams: [{stream}]\n")
    return load(path)


def put(settings: Settings, name: str, mark: str | None = None) -> None:
    model = card(name)
    mark = mark or fingerprint(model, recipe(model), settings.engines_dir, CHOICE)
    save(
        Tuning(
            model=model.model_id, size=model.input.sizes[0], goal="throughput", fingerprint=mark, choice=CHOICE, why="it won",
            tuned_at="2026-11-22T00:00:00+00:00",
        ),
        settings.engines_dir,
    )  # fmt: skip


def test_doctor_says_what_is_tuned_and_what_is_not(settings: Settings) -> None:
    put(settings, "centerface")
    detector, embedder = tunings(settings)
    assert (detector.state, detector.text) == ("ok", f"{CHOICE}: it won")
    assert embedder.state == "warn"
    assert "almena tune dlib-resnet" in embedder.advice
    put(settings, "dlib-resnet", "of another device")
    assert "which no longer counts" in tunings(settings)[1].text


def test_doctor_is_silent_where_the_settings_choose(settings: Settings) -> None:
    assert tunings(settings.model_copy(update={"engines": settings.engines.model_copy(update={"backend": "onnxruntime"})})) == []
    assert tunings(settings.model_copy(update={"streams": ()})) == []


def test_a_damaged_tuning_does_not_count(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    put(settings, "centerface")
    [path] = (settings.engines_dir / "tuned").iterdir()
    path.write_text('{"model": ')
    assert kept(settings.engines_dir) == []
    assert tunings(settings)[0].state == "warn"
    assert "does not count" in caplog.text


def test_passports_say_which_engine_a_tuning_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, monkeypatch)
    Tuner(site.card, site.options, "latency", 30.0, backends=("quick",)).run()
    config = tmp_path / "almena.yaml"
    config.write_text("state_dir: state\n")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "engines").symlink_to(site.options.engines_dir)
    told = CliRunner().invoke(command.app, ["passports", "--config", str(config), "--json"])
    [passport] = json.loads(told.stdout)
    assert (passport["identity"]["backend"], passport["tuned_for"]) == ("quick", ["latency"])
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(command.app, ["passports", "--json"]).stdout == told.stdout
