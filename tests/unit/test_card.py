from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from engines.card import ModelCard, card, familiar_data, names
from engines.errors import ModelFileError, UnknownNameError
from engines.fetch import assets, ensure
from engines.registry import CONVERTERS, DECODERS, resolve
from training.recipe import load

pytestmark = pytest.mark.unit


def test_the_catalog_has_the_default_models() -> None:
    assert {"centerface", "dlib-resnet", "blazeface-short", "blazeface-full", "yunet", "sface"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_card_is_complete_and_names_what_exists(name: str) -> None:
    entry = card(name)
    assert entry.name == name
    assert entry.training_data
    assert entry.intended_use
    assert entry.known_limits
    assert entry.thresholds.chosen_on
    kind = resolve(DECODERS, entry.decoder.name, "decoder")
    kind.Params(**entry.decoder.params)
    assert entry.converter is None or entry.converter in CONVERTERS


def test_the_model_that_ships_is_the_one_that_its_card_describes(tmp_path: Path) -> None:
    chest = card("chest-xray")
    (tmp_path / "chest-xray.onnx").write_bytes(b"of an earlier version")
    assert ensure(chest, tmp_path).stat().st_size < 10_000_000
    assert np.load(BytesIO(familiar_data(chest)))["means"].shape[0] == len(chest.labels) == 3
    assert "Not for diagnosis" in chest.intended_use
    assert "the sources of the pictures" in chest.known_limits


def test_the_card_that_ships_says_what_its_recipe_says_and_how_it_did_elsewhere() -> None:
    shipped, recipe = card("chest-xray"), load("chest-xray", {})
    for name, said in recipe.card.model_dump(exclude_defaults=True).items():
        assert getattr(shipped, name) == said
    assert (shipped.labels, shipped.positive, shipped.allowance) == (recipe.labels, recipe.positive, recipe.allowance)
    assert f"for a sensitivity of {recipe.sensitivity:g} for covid: 779 pictures out of fold" in shipped.thresholds.chosen_on
    assert shipped.familiar
    assert shipped.familiar.chosen_on.startswith("779 pictures out of fold (5 folds by patient group)")
    unseen = {one.metric: one.value for one in shipped.expected if "117 pictures of other patients (val)" in one.data}
    assert unseen["accuracy"] >= 0.82
    assert unseen["covid against normal"] >= 0.97


@pytest.mark.parametrize("name", [name for name in names() if card(name).format == "dlib"])
def test_source_archives_are_pinned_because_pip_runs_their_code(name: str) -> None:
    source = card(name).source
    assert source.kind == "package"
    assert source.archive_sha256 is not None


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'centerface'.*dlib-resnet"):
        card("centreface")


def _raw() -> dict[str, object]:
    return card("centerface").model_dump(mode="json")


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="colour_order"):
        ModelCard.model_validate({**_raw(), "colour_order": "RGB"})


def test_a_detector_needs_its_threshold() -> None:
    with pytest.raises(ValidationError, match=r"thresholds\.score"):
        ModelCard.model_validate({**_raw(), "thresholds": {"chosen_on": "nothing"}})


def test_an_embedder_needs_alignment() -> None:
    with pytest.raises(ValidationError, match="alignment"):
        ModelCard.model_validate({**card("sface").model_dump(mode="json"), "alignment": None})


def test_templates_are_bound_to_the_file() -> None:
    assert card("dlib-resnet").model_id == "dlib-resnet@55533b28a958"


def test_portraits_carry_their_landmarks() -> None:
    assert all(len(assets()[name].landmarks) == 5 for name in ("astronaut", "grace-hopper"))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("input", "mean", 127.5, r"input\.mean: Input should be a valid tuple"),
        ("input", "scale", [float("nan")], r"input\.scale\.0: Input should be a finite number"),
        ("input", "sizes", [[640, 0]], r"input\.sizes\.0\.1: Input should be greater than 0"),
        ("allowance", "overlap", float("nan"), r"allowance\.overlap: Input should be less than or equal to 1"),
        ("allowance", "mean_overlap", 98, r"allowance\.mean_overlap: Input should be less than or equal to 1"),
        ("allowance", "score", float("inf"), r"allowance\.score: Input should be a finite number"),
    ],
)
def test_numbers_that_mean_nothing_are_told(tmp_path: Path, part: str, key: str, value: object, message: str) -> None:
    raw = card("centerface").model_dump(mode="json")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw | {part: raw[part] | {key: value}}))
    with pytest.raises(ModelFileError, match=rf"own\.yaml: .*{message}"):
        card(str(tmp_path / "own.yaml"))


def test_a_home_folder_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/ada")
    raw = card("centerface").model_dump(mode="json") | {"source": {"kind": "local", "path": "~/parts.onnx"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw))
    source = card(str(tmp_path / "own.yaml")).source
    assert source.kind == "local"
    assert source.path == "/somewhere/ada/parts.onnx"
