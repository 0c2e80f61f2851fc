"""What the demo of radiographs is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent import settings
from agent.vision.frontal import frontal
from agent.xray_demo import prepare
from agent.xray_demo.clinic import told
from agent.xray_demo.phantom import chest_phantom
from engines.card import card_for
from tests.fakes.radiographs import result

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """In which nothing is left to fetch."""
    (tmp_path / "models").mkdir()
    for name in ("RG1_UNCR.dcm", "RG3_J2KR.dcm"):
        (tmp_path / "models" / name).touch()
    return tmp_path


def test_the_phantom_passes_for_a_frontal_chest_and_its_negative_does_not() -> None:
    pixels = chest_phantom()
    grey = (pixels >> 4).astype(np.uint8)
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.uint16, 0, 4095)
    assert frontal().objection(grey) == ""
    assert frontal().objection(255 - grey) != ""


def test_the_settings_are_right_and_the_password_stays(folder: Path) -> None:
    config, word = prepare.prepare(folder), prepare.password(folder)
    (task,) = settings.load(config).streams[0].tasks
    card = card_for(task.model, "classification")
    assert (card.name, card.positive) == ("chest-xray", "covid")
    prepare.prepare(folder)
    assert prepare.password(folder) == word
    assert (folder / "password.txt").stat().st_mode & 0o077 == 0


def test_a_result_is_told_with_its_scores_or_why_there_is_none() -> None:
    assert "answer of chest-xray@0123456789ab, unverified: covid (covid from 0.400 on)" in told(result("0" * 32))
    first, *_ = told(result("0" * 32, abstained="no frontal chest radiograph by its tags: view LL is not frontal"))
    assert first == "no answer: no frontal chest radiograph by its tags: view LL is not frontal"
