"""From logits and activation maps to what a classifier says, and from that to its answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.answers import answer
from engines.card import card
from engines.decoders.classification import ClassificationDecoder, ClassificationParams
from engines.results import Classification
from tests.fakes.mapped_model import CHEST, save_model, write_card

pytestmark = pytest.mark.unit


def test_a_temperature_flattens_the_scores_and_keeps_their_order() -> None:
    logits = {"y": np.array([[2.0, 0.0, -2.0]], np.float32)}
    plain = ClassificationDecoder(ClassificationParams(output="y", activation="softmax")).decode(logits)
    warm = ClassificationDecoder(ClassificationParams(output="y", activation="softmax", temperature=2.0)).decode(logits)
    np.testing.assert_allclose(warm[0], np.exp([1, 0, -1]) / np.exp([1, 0, -1]).sum(), rtol=1e-6)
    assert plain[0, 0] > warm[0, 0] > warm[0, 1] > warm[0, 2]
    one = ClassificationDecoder(ClassificationParams(output="y", activation="sigmoid", temperature=2.0)).decode({"y": logits["y"][:, :1]})
    np.testing.assert_allclose(one, [[1 - 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-1))]], rtol=1e-6)
    with pytest.raises(ValueError, match="needs an activation"):
        ClassificationParams(output="y", temperature=2.0)


def test_maps_are_an_output_of_their_own() -> None:
    maps = np.zeros((1, 2, 4, 4), np.float32)
    decoder = ClassificationDecoder(ClassificationParams(output="y", activation="softmax", maps="m"))
    assert decoder.params.outputs == ("y", "m")
    assert decoder.maps({"y": np.zeros((1, 2), np.float32), "m": maps}) is not None
    assert ClassificationDecoder(ClassificationParams(output="y")).maps({}) is None
    with pytest.raises(ValueError, match="maps must be"):
        Classification(np.zeros((1, 2), np.float32), ("a", "b"), maps[:, :1])


def test_the_positive_class_is_the_answer_from_its_threshold_on(tmp_path: Path) -> None:
    found = card(str(write_card(save_model(tmp_path / "chest.onnx", 64, (1, 2, 3), (0, 0, 0)), CHEST, 64, 0.4)))
    assert answer(found, [0.40, 0.45, 0.15]) == "covid"
    assert answer(found, [0.39, 0.45, 0.16]) == "normal"
    assert answer(found, [0.39, 0.45, 0.16], threshold=0.3) == "covid"
    assert answer(found, [0.39, 0.30, 0.31]) == "pneumonia"
    assert answer(found, [0.43, 0.50, 0.07], holding="normal", margin=0.05) == "normal"
    assert answer(found, [0.37, 0.50, 0.13], holding="covid", margin=0.05) == "covid"
    bare = found.model_copy(update={"positive": None})
    assert answer(bare, [0.40, 0.45, 0.15]) == "normal"
