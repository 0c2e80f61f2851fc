"""What the tags say of a view and a body part, and when that is no frontal chest."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from agent.dicom import views

pytestmark = pytest.mark.unit


def coded(value: str) -> Sequence:
    """A code sequence of one item."""
    item = Dataset()
    item.CodeValue = value
    return Sequence([item])


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({}, ""),
        ({"BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientOrientation": ["L", "F"]}, ""),
        ({"BodyPartExamined": "KNEE"}, "body part KNEE is not the chest"),
        ({"AnatomicRegionSequence": coded("T-D9200")}, "the body part is not the chest"),
        ({"AnatomicRegionSequence": coded("51185008")}, ""),
        ({"AnatomicRegionSequence": coded("T-D9200"), "BodyPartExamined": "CHEST"}, ""),
        ({"PatientOrientation": ["A", "F"]}, "the view is not frontal"),
        ({"PatientOrientation": ["P", "F"]}, "the view is not frontal"),
        ({"PatientOrientation": ["R", "F"]}, ""),
        ({"PatientOrientation": ""}, ""),
        ({"ViewPosition": "LL", "PatientOrientation": ["L", "F"]}, "view LL is not frontal"),
    ],
)
def test_what_the_tags_say(tags: dict[str, Any], told: str) -> None:
    dataset = Dataset()
    dataset.Modality = "DX"
    for name, value in tags.items():
        setattr(dataset, name, value)
    assert views.note(dataset) == told
