from __future__ import annotations

import pytest
from pydantic import ValidationError

from engines.card import ModelCard, card, names
from engines.errors import UnknownNameError
from engines.fetch import assets
from engines.registry import CONVERTERS, DECODERS, resolve

pytestmark = pytest.mark.unit


def test_the_catalog_has_the_default_models() -> None:
    assert {"centerface", "dlib-resnet", "blazeface-short", "blazeface-full", "yunet", "sface"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_a_card_is_complete_and_names_what_exists(name: str) -> None:
    entry = card(name)
    assert entry.name == name
    assert entry.training_data
    assert entry.thresholds.chosen_on
    kind = resolve(DECODERS, entry.decoder.name, "decoder")
    kind.Params(**entry.decoder.params)
    assert entry.converter is None or entry.converter in CONVERTERS


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
