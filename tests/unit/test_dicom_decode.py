"""Stored values become grey as the standard says, and what cannot be read has a typed reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from agent.dicom.decode import MANUFACTURER, picture_of
from agent.dicom.reading import UnusableError, identify, inflated
from agent.studies import StudyInstance, StudyPicture
from tests.fakes.radiographs import file_of, instance, phantom, radiograph

pytestmark = pytest.mark.unit
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def picture(data: bytes) -> StudyPicture:
    return picture_of(StudyInstance("0" * 32, data, time.time(), time.monotonic_ns()))[0]


def lut(first: int, depth: int, entries: list[int]) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, depth])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return Sequence([item])


def grey(pixels: np.ndarray = RAMP, **elements: Any) -> np.ndarray:
    return picture(instance(1, pixels, **elements)).image


def test_without_a_window_the_values_that_are_used_span_the_range() -> None:
    image = grey(np.tile(RAMP[16:32], (4, 1)))
    assert (image.min(), image.max()) == (0, 255)
    assert image[0, 0] == 0
    assert image[15, 63] == 255


@pytest.mark.parametrize("padding", [{"PixelPaddingValue": 4095}, {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}])
def test_padding_is_no_part_of_the_range(padding: dict[str, int]) -> None:
    pixels = np.tile(RAMP[16:32], (4, 1))
    padded = pixels.copy()
    padded[:, :8] = 4095
    image = grey(padded, **padding)
    assert np.array_equal(image[:, 8:], grey(pixels[:, 8:])), "what is beside it has all the contrast"
    assert (image[:, :8] == 255).all()


def test_a_picture_that_is_all_padding_stays_one() -> None:
    assert np.array_equal(grey(RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=4095), grey(RAMP))


def test_eight_bits_without_a_window_stay_as_they_are() -> None:
    pixels = np.full((40, 40), 77, np.uint8)
    assert np.array_equal(grey(pixels), pixels)


def test_a_window_cuts_off_below_and_above() -> None:
    image = grey(WindowCenter="2048", WindowWidth="1025").ravel()
    assert image[1535] == 0
    assert image[2560] == 255
    assert image[2047] in (127, 128)
    exact = grey(WindowCenter="2048", WindowWidth="1024", VOILUTFunction="LINEAR_EXACT").ravel()
    assert (exact[1536], exact[2048], exact[2560]) == (0, 128, 255)
    sigmoid = grey(WindowCenter=[2048, 7], WindowWidth=[1024, 9], VOILUTFunction="SIGMOID").ravel().astype(int)
    assert (np.diff(sigmoid) >= 0).all()
    assert sigmoid[2048] in (127, 128)
    assert sigmoid[1536] == round(255 / (1 + np.exp(2)))


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_jpeg_extended_with_12_bits(name: str) -> None:
    """pydicom's test files; DCMTK's dcmdjpeg gives 0 to 264 and the same mean."""
    image = picture((Path(pydicom.__file__).parent / "data" / "test_files" / name).read_bytes()).image
    assert image.shape == (1024, 256)
    assert (image.min(), image.max(), round(float(image.mean()), 3)) == (0, 255, 13.887)


def test_a_damaged_jpeg_of_12_bits_has_a_reason() -> None:
    data = (Path(pydicom.__file__).parent / "data" / "test_files" / "JPEG-lossy.dcm").read_bytes()
    with pytest.raises(UnusableError) as raised:
        picture(data[:-4000] + bytes(2000) + data[-2000:])
    assert raised.value.reason == "codec"


def test_monochrome1_is_inverted() -> None:
    plain, inverted = grey(), grey(PhotometricInterpretation="MONOCHROME1")
    assert np.abs(plain.astype(int) + inverted - 255).max() <= 1


def test_signed_values_are_rescaled_before_the_window() -> None:
    signed = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    stored = (signed.view(np.uint16) & 0x0FFF).astype(np.uint16)
    image = grey(stored, PixelRepresentation=1, RescaleSlope="2", RescaleIntercept="100", WindowCenter="100.5", WindowWidth="4097").ravel()
    assert image[2048] in (127, 128)
    assert image[1024] < 2
    assert image[3072] > 253


def test_lookup_tables_come_before_windows() -> None:
    steps = [0, 255, 0, 255]
    image = grey(VOILUTSequence=lut(1000, 8, steps), WindowCenter="1", WindowWidth="2").ravel()
    assert list(image[[0, 1000, 1001, 1002, 1003, 4095]]) == [0, 0, 255, 0, 255, 255]
    modality = grey(ModalityLUTSequence=lut(0, 16, [65535 - 16 * value for value in range(4096)])).ravel()
    assert (modality[0], modality[4095]) == (255, 0)


def test_bits_beside_the_stored_ones_are_ignored() -> None:
    plain = grey()
    assert np.array_equal(grey(RAMP | 0xF000), plain)
    assert np.array_equal(grey(RAMP << 4, HighBit=15), plain)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_transfer_syntaxes_give_the_same_picture(syntax: str) -> None:
    dataset = radiograph(1, RAMP)
    if syntax == RLELossless:
        dataset = radiograph(1, RAMP)
        file_of(dataset)
        dataset.compress(RLELossless)
    data = inflated(file_of(dataset, syntax), 1 << 20)
    assert identify(data).instance == dataset.SOPInstanceUID
    assert np.array_equal(picture(data).image, grey())


def test_big_endian_too() -> None:
    dataset = radiograph(1, RAMP.astype(">u2"))
    data = file_of(dataset, ExplicitVRBigEndian)
    assert np.array_equal(picture(data).image, grey())


@pytest.mark.parametrize(
    ("reason", "elements"),
    [
        ("no-pixels", {"PixelData": None}),
        ("colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("colour", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
        ("multi-frame", {"NumberOfFrames": "2"}),
        ("bits", {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}),
        ("bits", {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}),
        ("truncated", {"PixelData": bytes(100)}),
        ("size", {"Rows": 1}),
        ("size", {"Rows": 60000, "Columns": 60000}),
        ("window", {"WindowCenter": "1", "WindowWidth": "0"}),
        ("own-result", {"Manufacturer": MANUFACTURER}),
    ],
)
def test_what_cannot_be_read_has_its_reason(reason: str, elements: dict[str, Any]) -> None:
    with pytest.raises(UnusableError) as refused:
        picture(instance(1, **elements))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("note", "elements"),
    [
        ("", {}),
        ("", {"ViewPosition": None, "BodyPartExamined": None, "SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"}),
        ("view LL is not frontal", {"ViewPosition": "LL"}),
        ("the view is not frontal", {"ViewPosition": "Anna Unmistakable"}),
        ("body part HAND is not the chest", {"BodyPartExamined": "hand"}),
        ("modality CT is not radiography", {"Modality": "CT"}),
    ],
)
def test_tags_say_whether_it_is_a_frontal_chest_radiograph(note: str, elements: dict[str, Any]) -> None:
    assert picture(instance(1, **elements)).note == note


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("not-dicom", b""),
        ("not-dicom", bytes(1000)),
        ("sop-class", instance(1, SOPClassUID=CTImageStorage)),
        ("uid", instance(1).replace(b"1.2.826.0.1.3680043.10.1337.3.1", b"Anna Unmistakable Anna Unmistak")),
        ("transfer-syntax", instance(1).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")),
    ],
)
def test_what_is_no_radiograph_is_refused_at_the_door(reason: str, data: bytes) -> None:
    with pytest.raises(UnusableError) as refused:
        identify(data)
    assert refused.value.reason == reason
    assert "Anna" not in str(refused.value)


def test_what_inflates_beyond_the_limit_is_refused() -> None:
    data = file_of(radiograph(1, np.zeros((3000, 3000), np.uint16)), DeflatedExplicitVRLittleEndian)
    assert len(data) < 100_000
    with pytest.raises(UnusableError) as refused:
        inflated(data, 1 << 20)
    assert refused.value.reason == "too-large"


def test_the_phantom_looks_like_one() -> None:
    image = phantom()
    assert image[48, 40] > image[48, 26] + 0.2
