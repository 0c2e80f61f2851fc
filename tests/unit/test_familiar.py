"""Whether a picture's features are like those of the training pictures: fitted, kept beside the card, and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.card import card
from engines.errors import ModelFileError
from engines.familiar import familiar
from tests.fakes.mapped_model import CHEST, save_model, write_card
from training.ood import fitted, limited, out_of_fold, write

pytestmark = pytest.mark.unit

RANDOM = np.random.default_rng(7)
MIX = RANDOM.normal(0, 1, (6, 64)).astype(np.float32)
CLASSES = 4 * RANDOM.normal(0, 1, (3, 64)).astype(np.float32)


def drawn(count: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes, six directions and a little noise; `shift` puts them elsewhere."""
    truth = RANDOM.integers(0, 3, count)
    inner = RANDOM.normal(0, 1, (count, 6)).astype(np.float32) @ MIX
    noise = RANDOM.normal(0, 0.1, (count, 64)).astype(np.float32)
    return (CLASSES[truth] + inner + noise + shift).astype(np.float32), truth


def test_the_limit_refuses_the_share_that_is_asked_for_and_what_lies_elsewhere() -> None:
    features, truth = drawn(900)
    found, (unseen, kinds) = fitted(features, truth), drawn(2000)
    found = limited(found, found.distances(unseen), kinds, refused=0.05)
    fresh = found.distances(drawn(4000)[0])
    assert 0.03 < float((fresh > found.limit).mean()) < 0.07
    assert 1.0 < float(np.median(fresh)) < 3.0
    elsewhere = drawn(200, shift=1.0)[0]
    assert (found.distances(elsewhere) > found.limit).all()
    between = np.tile(CLASSES.mean(0), (2, 1)).astype(np.float32)
    assert (found.distances(between) > found.limit).all(), "the middle of all classes is none of them"
    assert found.objection(elsewhere[0]).startswith("it is unlike what the model has learned from (distance ")
    assert found.objection(CLASSES[1]) == ""


def test_a_small_class_is_not_refused_more_often_than_another() -> None:
    features, truth = drawn(900)
    rare = np.flatnonzero(truth == 0)[:60]
    kept = np.concatenate([rare, np.flatnonzero(truth != 0)])
    features, truth = features[kept], truth[kept]
    features[: len(rare)] += RANDOM.normal(0, 0.2, (len(rare), 64)).astype(np.float32)
    folds = [np.arange(start, len(features), 5) for start in range(5)]
    distances = out_of_fold(features, truth, folds)
    found = limited(fitted(features, truth), distances, truth, refused=0.02)
    refused = [float((distances[truth == kind] > found.limit).mean()) for kind in range(3)]
    assert max(refused) <= 0.02
    assert found.limit >= float(np.sort(distances[: len(rare)])[-2])
    assert float(np.quantile(distances[truth != 0], 0.98)) < found.limit, "a limit for all alike would fall on the rare class"
    assert float(np.median(distances)) > float(np.median(fitted(features, truth).distances(features)))


def test_the_file_lies_beside_the_card_and_is_checked(tmp_path: Path) -> None:
    features, truth = drawn(900)
    fit = limited(fitted(features, truth), fitted(features, truth).distances(features), truth)
    about = write(fit, tmp_path / "chest.npz", "pictures drawn at random")
    model = save_model(tmp_path / "chest.onnx", 64, (1, 2, 3), (0, 0, 0), features=True)
    read = familiar(card(str(write_card(model, CHEST, 64, 0.4, about, features="pooled"))))
    assert read is not None
    assert read.limit == pytest.approx(fit.limit, abs=1e-3)
    np.testing.assert_allclose(read.distances(features), fit.distances(features), rtol=1e-5)
    assert familiar(card(str(write_card(model, CHEST, 64, 0.4)))) is None
    path = str(write_card(model, CHEST, 64, 0.4, about, features="pooled"))
    (tmp_path / "chest.npz").write_bytes(b"another")
    with pytest.raises(ModelFileError, match="not the one that the card describes"):
        familiar(card(path))
    (tmp_path / "chest.npz").unlink()
    with pytest.raises(ModelFileError, match="put it beside the card"):
        familiar(card(path))
    with pytest.raises(ModelFileError, match=r"needs decoder\.params\.features"):
        card(str(write_card(model, CHEST, 64, 0.4, about)))
