"""Networks of keras.applications as a base: their weights, what learns of them, and what they are fed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.fakes.labelled import tiny_recipe
from training import networks
from training.errors import TrainingError
from training.loop import Judge, Trainer
from training.memory import fitting_batch, numbers
from training.recipe import Recipe, load

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""Keras asks its variables for arrays in a way that numpy 2 wants otherwise."""

SIDE = 32


def a_recipe(**changes: Any) -> Recipe:
    feed = {"layout": "NHWC", "colour": "RGB", "sizes": [[SIDE, SIDE]], "mean": [127.5], "scale": [127.5], "resize": "stretch"}
    return Recipe.model_validate(tiny_recipe() | {"network": "mobilenet-v2", "input": feed, "epochs": 1, "augmentation": {}} | changes)


def test_with_another_network_comes_what_its_weights_were_trained_on() -> None:
    feed = load("chest-xray", {"network": "vgg-16"}).input
    assert (feed.colour, feed.sizes, feed.mean) == ("BGR", ((224, 224),), (103.939, 116.779, 123.68))
    assert load("chest-xray-compact").input.colour == "GREY"
    with pytest.raises(TrainingError, match="head needs a base network that stays as it is"):
        load("chest-xray", {"network": "compact"})


def test_the_head_learns_first_and_then_the_end_of_the_base(tmp_path: Path) -> None:
    base = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
    file = tmp_path / "base.weights.h5"
    base.save_weights(str(file))
    recipe = a_recipe(fine_tuning={"epochs": 1, "layers": 12, "rate": 1e-3}, averaging=0.0)
    random = np.random.default_rng(0)
    shown = random.integers(0, 256, (16, SIDE, SIDE, 3)).astype(np.uint8), np.arange(16) % 2
    told: list[int] = []
    Trainer(recipe, shown, shown, tmp_path / "out", "key", Judge(recipe), str(file)).run(lambda epoch, left: told.append(epoch.epoch))
    assert told == [1, 1]
    given = base.get_weights()
    with np.load(tmp_path / "out" / "state.npz") as first, np.load(tmp_path / "out" / "fine-tuned" / "state.npz") as second:
        head, tuned = ([kept[f"best/{place:04}"] for place in range(len(given))] for kept in (first, second))
    assert all((one == two).all() for one, two in zip(given, head, strict=True))
    changed = {weight.path.split("/")[-2] for weight, one, two in zip(base.weights, given, tuned, strict=True) if (one != two).any()}
    assert changed
    assert changed <= {layer.name for layer in base.layers[-12:]}
    assert not any(name.endswith("BN") for name in changed)


def test_weights_that_cannot_be_had_are_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"there is no file .*nowhere\.h5 with the weights of mobilenet-v2"):
        networks.build(a_recipe(), str(tmp_path / "nowhere.h5"))
    (tmp_path / "wrong.weights.h5").write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=r"wrong\.weights\.h5 does not hold the weights of mobilenet-v2"):
        networks.build(a_recipe(), str(tmp_path / "wrong.weights.h5"))


def test_a_batch_that_does_not_fit_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    model = networks.build(Recipe.model_validate(tiny_recipe()))
    each = numbers(model) * 12
    assert fitting_batch(model, 32, free=40 * each) == 32
    assert fitting_batch(model, 32, free=9 * each) == 8
    assert "8 pictures at once instead of 32" in caplog.text
    assert fitting_batch(model, 32, workers=2, free=each) == 32
