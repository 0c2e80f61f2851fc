"""Whatever stands in a data set, it gets a picture and an answer that can be read, or a reason."""

from __future__ import annotations

import struct
import tempfile
import time
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pynetdicom.dsutils import encode

from agent.dicom.answer import answer_files
from agent.dicom.common import REPEATED
from agent.dicom.decode import picture_of
from agent.dicom.reading import UnusableError, identify
from agent.studies import StudyFolders, StudyInstance
from tests.fakes.radiographs import analyse, file_of, phantom, radiograph
from tests.integration.test_dicom_fuzz import AT_THE_DOOR, KNOWN

PIXELS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
    "PhotometricInterpretation", "WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue",
    "SmallestImagePixelValue", "ModalityLUTSequence", "VOILUTSequence", "PresentationLUTShape", "PixelSpacing", "ImagerPixelSpacing",
)  # fmt: skip
VIEWS = (
    "Modality",
    "ViewPosition",
    "BodyPartExamined",
    "ImageLaterality",
    "PatientOrientation",
    "ViewCodeSequence",
    "SpecificCharacterSet",
)
SHORT = (
    "AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI", "SS", "US", "SL", "UL", "FD", "FL",
)  # fmt: skip
LONG = ("OB", "OW", "SQ", "UN", "UR", "UT")
WRITTEN = (
    "", " ", "0", "-1", "1e9", "nan", "1\\2", "20260102", "20260102-20260103", "1.2.3", "1..2", "M", "CHEST", "MONOCHROME1",
    "ISO_IR 192", "ÄÖ^ü", "\0", "\1\0", "\x40\0", "\xff\xff", "\xfe\xff\x00\xe0\x00\x00\x00\x00",
)  # fmt: skip
"""Texts, numbers of two bytes, and a sequence with an empty item, as bytes of Latin-1."""


def changes() -> st.SearchStrategy[dict[str, tuple[str, bytes]]]:
    """Elements that matter here, by name, each with its own VR ("") or another one, and any value."""
    names = st.sampled_from((*PIXELS, *VIEWS, *REPEATED, "Manufacturer", "InstitutionName"))
    values = st.sampled_from(WRITTEN).map(lambda text: text.encode("latin-1")) | st.binary(max_size=70)
    return st.dictionaries(names, st.tuples(st.sampled_from(("", "", *SHORT, *LONG)), values), min_size=1, max_size=5)


def changed(elements: dict[str, tuple[str, bytes]]) -> bytes:
    """A radiograph's file in Explicit VR Little Endian with these elements, byte by byte (PS3.5, 7.1.2)."""
    source = radiograph(1, (phantom(64, 64) * 4095).astype("u2"))
    parts = {}
    for element in source:
        single = Dataset()
        single.add(element)
        parts[int(element.tag)] = encode(single, False, True) or b""
    file = file_of(source)
    head = file[: -sum(map(len, parts.values()))]
    assert file == head + b"".join(parts.values())
    for name, (vr, value) in elements.items():
        tag, even = Tag(name), value + bytes(len(value) % 2)
        vr = vr or dictionary_VR(name).partition(" ")[0]
        length = struct.pack("<HL", 0, len(even)) if vr in LONG else struct.pack("<H", len(even))
        parts[int(tag)] = struct.pack("<HH", tag.group, tag.element) + vr.encode() + length + even
    return head + b"".join(parts[tag] for tag in sorted(parts))


def holds(elements: dict[str, tuple[str, bytes]]) -> None:
    """Raises AssertionError, or whatever the product lets through, where it does not."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as place:
        warnings.simplefilter("ignore")
        _taken(StudyFolders(Path(place)), changed(elements))


def _taken(folders: StudyFolders, data: bytes) -> None:
    one = StudyInstance(folders.item("1"), data, time.time(), time.monotonic_ns())
    try:
        identify(data)
        folders.write_instance(one)
        folders.write_picture(picture_of(one)[0])
    except UnusableError as refusal:
        reason = refusal.reason
    else:
        reason = ""
    if reason:
        assert reason in KNOWN | AT_THE_DOOR
        return
    analyse(folders, one.item)
    report, capture = (dcmread(BytesIO(answer)) for answer in answer_files(folders, one.item))
    assert report.StudyInstanceUID == capture.StudyInstanceUID
    assert capture.pixel_array.any()


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes())
def test_any_data_set_gets_an_answer_or_a_reason(elements: dict[str, tuple[str, bytes]]) -> None:
    holds(elements)


@pytest.mark.soak
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes())
def test_any_of_many_data_sets_gets_an_answer_or_a_reason(elements: dict[str, tuple[str, bytes]]) -> None:
    holds(elements)
