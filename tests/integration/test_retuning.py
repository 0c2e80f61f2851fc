"""A tuning of another device, runtime or model is made anew beside the streams, by the real command in a process of its own."""

from __future__ import annotations

import json
import math
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.errors import UsageError
from agent.settings import Settings, load
from agent.vision import retuning
from agent.vision.classifier_kit import ClassifierKit
from agent.vision.retuning import Retuning
from engines.errors import EngineError
from engines.model import Classifier, recipe
from engines.tuning import Choice, Tuning, find, save, standing
from tests.fakes.classifier import save_card, stripes
from tests.waiting import wait_until

NAME = "two-classes.yaml"
CHOICE = Choice(backend="onnxruntime", unit="cpu", precision="fp32", policy="latency", threads=1)


@pytest.fixture
def path(tmp_path: Path, models_dir: Path, portraits: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of an agent whose model was tuned for another runtime."""
    monkeypatch.setattr(retuning, "LOOK_S", 0.2)
    card = save_card(tmp_path)
    file = tmp_path / "almena.yaml"
    file.write_text(yaml.safe_dump({"state_dir": "state", "engines": {"models_dir": str(models_dir), "retune_budget_s": 1}}))
    tuning = Tuning(
        model=card.model_id, size=card.input.sizes[0], goal="throughput", fingerprint="of another runtime", choice=CHOICE, why="it won",
        tuned_at="2026-01-02T00:00:00+00:00",
    )  # fmt: skip
    save(tuning, load(file).engines_dir)
    return file


@pytest.fixture
def kit(path: Path) -> Iterator[ClassifierKit]:
    kit = ClassifierKit.open(load(path), str(path.with_name(NAME)))
    yield kit
    kit.close()


def run(settings: Settings, path: Path) -> Retuning:
    found = Retuning(settings, path)
    found.start()
    return found


def running(model: Classifier) -> Tuning | None:
    """The tuning that its engine was chosen by."""
    return model.workshop.tuning


def test_a_tuning_of_another_runtime_is_replaced_and_no_picture_is_lost(kit: ClassifierKit, path: Path) -> None:
    model, settings, ended = kit.classifier, load(path), threading.Event()
    pictures = stripes(4)
    expected, answers, failed = model.classify(pictures).probabilities.argmax(1).tolist(), [], []

    def work() -> None:
        while not ended.is_set():
            try:
                answers.append(model.classify(pictures).probabilities.argmax(1).tolist())
            except EngineError as error:
                failed.append(error)

    assert "tuned on 2026-01-02 for another runtime" in model.why
    assert running(model) is None
    caller = threading.Thread(target=work)
    caller.start()
    background = run(settings, path)
    try:
        wait_until(lambda: "it is being tuned anew" in model.why, 20, "the reason to say so")
        wait_until(lambda: running(model) is not None, 90, "the winner to be taken up")
        done = len(answers)
        wait_until(lambda: len(answers) > done + 10, 20, "further answers")
    finally:
        background.stop()
        ended.set()
        caller.join()
    assert (failed, [answer for answer in answers if answer != expected]) == ([], [])
    kept, counts = standing(model.card, recipe(model.card), settings.engines_dir, "throughput")
    assert counts
    assert kept is not None
    assert (running(model), model.why) == (kept, kept.why)
    assert model.passport.identity.backend == kept.choice.backend
    assert json.loads((settings.engines_dir / "retuning.json").read_text()) == {}


def test_what_fails_is_told_and_left_for_a_day(kit: ClassifierKit, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, model = load(path), kit.classifier
    path.write_text("streams: 3\n")
    background = run(settings, path)
    try:
        wait_until(lambda: "tuning it anew failed and is tried again after a day" in model.why, 60, "the failure to be told")
    finally:
        background.stop()
    assert "streams" in model.why
    monkeypatch.setattr(subprocess, "Popen", None)
    model.why = ""
    again = run(settings, path)
    try:
        wait_until(lambda: "tried again after a day" in model.why, 20, "the failure to be told again")
    finally:
        again.stop()
    kept = find(settings.engines_dir, model.card, "throughput")
    assert kept is not None
    assert kept.fingerprint == "of another runtime"


def test_a_tuning_that_is_asked_for_is_made_though_none_is_made_by_itself(kit: ClassifierKit, path: Path) -> None:
    settings, name = load(path), str(path.with_name(NAME))
    engines = settings.engines.model_copy(update={"retune": "off"})
    background = run(settings.model_copy(update={"engines": engines}), path)
    try:
        for model, budget_s, why in (("no-such", 1, name), (None, 0, "from 1 to 3600"), (None, math.nan, "from 1")):
            with pytest.raises(UsageError, match=re.escape(why)):
                background.ask(model, budget_s)
        assert background.ask(name, 1) == {"goes_on": [name], "done": []}
        with pytest.raises(UsageError, match="under way"):
            background.ask(None, None)
        (done,) = wait_until(lambda: background.state()["done"], 90, "the tuning")
        assert (done["model"], done["ok"], done["detail"], background.state()["goes_on"]) == (name, True, "", [])
        assert running(kit.classifier) is not None
    finally:
        background.stop()


@pytest.mark.parametrize(
    ("changes", "battery"), [({"retune": "off"}, False), ({"backend": "onnxruntime"}, False), ({}, True)], ids=["off", "named", "battery"]
)
def test_nothing_is_tuned(kit: ClassifierKit, path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], battery: bool) -> None:
    settings = load(path)
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(retuning, "on_battery", lambda: battery)
    engines = settings.engines.model_copy(update=changes)
    background = run(settings.model_copy(update={"engines": engines}), path)
    if battery:
        wait_until(lambda: "once the device is not on battery" in kit.classifier.why, 20, "the reason to wait")
    if engines.backend != "auto":
        with pytest.raises(UsageError, match="choose the engine themselves"):
            background.ask(None, None)
    background.stop()
    assert not (settings.engines_dir / "retuning.json").exists()
