"""What a training reads, how it is divided, and how it is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.card import ModelInput
from tests.fakes.labelled import LABELS, draw, tiny_recipe
from training.augment import Augmentation, augmented
from training.batches import epoch_batches, rarity
from training.data import divided, grouped_folds, read, require_apart
from training.errors import DataError, TrainingError
from training.recipe import Recipe, load, names

pytestmark = pytest.mark.unit

FEED = ModelInput.model_validate({"layout": "NHWC", "colour": "GREY", "sizes": [[32, 32]], "resize": "stretch"})


def test_pictures_come_with_label_and_patient(tmp_path: Path) -> None:
    found = read(draw(tmp_path / "train", 6, 1), FEED, LABELS)
    assert (found.pictures.shape, found.pictures.dtype) == ((12, 32, 32, 1), np.uint8)
    assert found.truth.tolist() == [0] * 6 + [1] * 6
    assert len(set(found.groups.tolist())) == 4
    assert found.digest == read(tmp_path / "train", FEED, LABELS).digest
    assert divided(tmp_path) == (tmp_path / "train", None)


def test_without_a_table_every_picture_is_its_own_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read(draw(tmp_path / "all", 4, 1, patients=False), FEED, LABELS)
    assert len(set(found.groups.tolist())) == 8
    assert "both sides" in caplog.text


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "train", 3, 1)
    with pytest.raises(DataError, match="'damaged' is none of the recipe's classes; they are intact"):
        read(tmp_path / "train", FEED, ("intact",))
    with pytest.raises(DataError, match="no picture of the class 'flooded'"):
        read(tmp_path / "train", FEED, (*LABELS, "flooded"))
    with pytest.raises(DataError, match="is no folder"):
        read(tmp_path / "nowhere", FEED, LABELS)
    (tmp_path / "train.csv").write_text("file,label\n")
    with pytest.raises(DataError, match=r"train\.csv:1: missing columns: patient_group"):
        read(tmp_path / "train", FEED, LABELS)


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    first, second = (read(draw(tmp_path / name, 3, seed), FEED, LABELS) for name, seed in (("train", 1), ("val", 2)))
    require_apart(first, second)
    with pytest.raises(DataError, match=r"2 patient groups .* are in the training and the validation data"):
        require_apart(first, first)


def test_without_a_table_names_of_files_mean_nothing_and_copies_are_one_group(tmp_path: Path) -> None:
    first, second = (draw(tmp_path / name, 3, seed, patients=False) for name, seed in (("train", 1), ("val", 2)))
    require_apart(read(first, FEED, LABELS), read(second, FEED, LABELS))
    one = next(path for path in sorted(first.rglob("*.png")))
    (one.with_name("copy.png")).write_bytes(one.read_bytes())
    (second / one.parent.name / "another.png").write_bytes(one.read_bytes())
    again = read(first, FEED, LABELS)
    assert len(set(again.groups.tolist())) == len(again.groups) - 1
    with pytest.raises(DataError, match="1 patient groups"):
        require_apart(again, read(second, FEED, LABELS))


def test_folds_split_no_patient_and_spread_the_classes() -> None:
    random = np.random.default_rng(4)
    groups = np.array([f"p{group}" for group in random.integers(0, 150, 400)])
    truth = np.array([int(group[1:]) % 7 == 0 for group in groups], np.int64)
    folds = grouped_folds(truth, groups, 5, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups.tolist()))
    assert np.ptp(np.bincount(folds[truth == 1])) <= 3
    assert np.ptp(np.bincount(folds)) <= 5
    assert (folds == grouped_folds(truth, groups, 5, seed=1)).all()
    assert (folds != grouped_folds(truth, groups, 5, seed=2)).any()
    with pytest.raises(DataError, match="5 folds need at least as many patient groups, not 3"):
        grouped_folds(np.zeros(3, np.int64), np.array(["a", "b", "c"]), 5, 1)


def test_changes_depend_on_seed_and_place_alone() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 1)).astype(np.uint8)
    how = Augmentation(
        rotation=20, scale=0.2, shift=0.1, brightness=0.2, contrast=0.3, gamma=0.3, noise=0.05, blur=1.0, erase=0.4, flip=True
    )
    places = np.arange(4)
    first = augmented(pictures, how, (1, 2), places)
    assert first.shape == pictures.shape
    assert (first[2:] == augmented(pictures[2:], how, (1, 2), places[2:])).all()
    assert (first != augmented(pictures, how, (1, 3), places)).any()
    assert (augmented(pictures, Augmentation(), (1, 2), places) == pictures).all()


def test_only_a_recipe_that_says_so_mirrors() -> None:
    picture = np.zeros((1, 16, 16, 1), np.uint8)
    picture[:, :, :8] = 255
    seen = {bool(augmented(picture, Augmentation(flip=True), (seed,), np.zeros(1, np.intp))[0, 8, 2, 0]) for seed in range(20)}
    assert seen == {True, False}
    assert all(augmented(picture, Augmentation(rotation=5), (seed,), np.zeros(1, np.intp))[0, 8, 2, 0] for seed in range(20))


def test_workers_together_compute_one_batch() -> None:
    recipe = Recipe.model_validate(tiny_recipe() | {"mixup": 0.4})
    random = np.random.default_rng(0)
    pictures, truth = random.integers(0, 256, (20, 32, 32, 1)).astype(np.uint8), random.integers(0, 2, 20)
    factors = rarity(truth, 2, 1.0)
    whole = list(epoch_batches(pictures, truth, recipe, 3, factors))
    halves = [list(epoch_batches(pictures, truth, recipe, 3, factors, share)) for share in (slice(0, 8), slice(8, 16))]
    assert len(whole) == 2
    for one, first, second in zip(whole, *halves, strict=True):
        assert (np.concatenate([first.inputs, second.inputs]) == one.inputs).all()
        assert (np.concatenate([first.targets, second.targets]) == one.targets).all()
        assert np.allclose(one.targets.sum(1), 1)


def test_rare_classes_count_more() -> None:
    truth = np.array([0] * 30 + [1] * 10)
    assert rarity(truth, 2, 0.0).tolist() == [1.0, 1.0]
    factors = rarity(truth, 2, 1.0)
    assert factors[1] == pytest.approx(3 * factors[0])
    assert factors[truth].mean() == pytest.approx(1.0)


def test_recipes_are_sound_and_their_faults_named(tmp_path: Path) -> None:
    assert {"chest-xray", "satellite"} <= set(names())
    for name in names():
        assert load(name).labels
    assert load("chest-xray-compact", {"epochs": 3}).epochs == 3
    with pytest.raises(TrainingError, match=r"recipe chest-xray: recipe: .*no use for batch, epochs"):
        load("chest-xray", {"epochs": 3, "batch": 8})
    with pytest.raises(TrainingError, match="recipe chest-xray: network: Input should be"):
        load("chest-xray", {"network": "alexnet"})
    own = tmp_path / "own.yaml"
    own.write_text("labels: [a")
    with pytest.raises(TrainingError, match=r"own\.yaml"):
        load(str(own))
