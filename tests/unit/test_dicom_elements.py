"""Pixel data found by walking over the elements: as pydicom reads it, and of hostile files in no time and no memory."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from agent.dicom.elements import MOST_ELEMENTS, pixels_of
from agent.dicom.reading import UnusableError, meta_of
from tests.fakes.radiographs import instance

pytestmark = pytest.mark.unit

CUT_OFF = {"rtplan_truncated.dcm", "MR_truncated.dcm"}


def test_it_is_what_pydicom_reads() -> None:
    compared = 0
    for path in (Path(pydicom.__file__).parent / "data/test_files").glob("*.dcm"):
        data = path.read_bytes()
        if data[128:132] != b"DICM" or path.name in CUT_OFF or meta_of(data)[0] == DeflatedExplicitVRLittleEndian:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = bytes(dcmread(BytesIO(data)).get("PixelData") or b"")
        assert pixels_of(data) == expected, path.name
        compared += bool(expected)
    assert compared > 40


def test_what_ends_early_is_damaged_wherever_that_is() -> None:
    data = instance(1)
    for end in range(len(data) // 2, len(data) - 2, 997):
        with pytest.raises(UnusableError, match="ends within"):
            pixels_of(data[:end])


@pytest.mark.parametrize("around", [b"", struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)])
def test_millions_of_elements_cost_nothing(around: bytes) -> None:
    """A parser makes an object of each; within a sequence of undefined length, too."""
    plain = instance(1)
    start = meta_of(plain)[1]
    tiny = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * (4 * MOST_ELEMENTS)
    data = plain[:start] + around + tiny
    tracemalloc.start()
    with pytest.raises(UnusableError, match="more than 100000 elements"):
        pixels_of(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1024 * 1024
