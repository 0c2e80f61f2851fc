"""From an instance to the picture that a task sees."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import JPEGExtended12BitDecoder, get_decoder

from agent.dicom import views
from agent.dicom.grey import to_grey
from agent.dicom.reading import COMPRESSED, UnusableError, foreign, parse
from agent.studies import StudyInstance, StudyPicture

MOST_PIXELS = 64_000_000
LEAST_SIDE = 32
MANUFACTURER = "Almena"
"""What this device's own reports and captures name as their maker."""

JPEGExtended12BitDecoder.add_plugin("almena", ("agent.dicom.jpeg12", "decode_frame"))


def picture_of(instance: StudyInstance) -> tuple[StudyPicture, bytes]:
    """With the encoded value of Pixel Data. Raises UnusableError. Reasons: `damaged`, `own-result`, `no-pixels`, `colour`, `multi-frame`,
    `bits`, `size`, `truncated`, `transfer-syntax`, `codec`, `window`."""
    queue_s = max(time.monotonic() - instance.received_ns / 1e9, 0.0)
    started = time.perf_counter()
    dataset = parse(instance.data)
    with foreign("damaged", "an element that describes the pixels cannot be read"):
        _require_usable(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
    codec_started = time.perf_counter()
    pixels = _pixels(dataset, syntax)
    codec_s = time.perf_counter() - codec_started if syntax in COMPRESSED else 0.0
    with foreign("window", "its lookup tables or its window cannot be read"):
        image = to_grey(pixels, dataset, syntax == uid.ExplicitVRBigEndian)
    with foreign("damaged", "an element that describes the view cannot be read"):
        picture = StudyPicture(
            instance.item, image, views.modality(dataset), views.view(dataset), views.body_part(dataset), views.laterality(dataset),
            views.note(dataset), instance.received_at, instance.received_ns, queue_s, codec_s=codec_s,
        )  # fmt: skip
    return replace(picture, decode_s=time.perf_counter() - started), bytes(dataset.PixelData)


def _require_usable(dataset: Dataset) -> None:
    if str(dataset.get("Manufacturer", "")) == MANUFACTURER:
        raise UnusableError("own-result", "it is an answer of this agent, which was sent back to it")
    if "PixelData" not in dataset:
        raise UnusableError("no-pixels", "it has no pixel data of whole numbers")
    if (
        str(dataset.get("PhotometricInterpretation", "")) not in ("MONOCHROME1", "MONOCHROME2")
        or int(dataset.get("SamplesPerPixel", 1)) != 1
    ):
        raise UnusableError("colour", "it is in colour, or has a palette; only MONOCHROME1 and MONOCHROME2 are read")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnusableError("multi-frame", "it has several frames")
    allocated, stored = int(dataset.get("BitsAllocated", 0)), int(dataset.get("BitsStored", 0))
    high = int(dataset.get("HighBit", stored - 1))
    if allocated not in (8, 16) or not 2 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise UnusableError("bits", f"{stored} bits stored in {allocated} are not read: only 2 to 16, in 8 or 16")
    rows, columns = int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0))
    if min(rows, columns) < LEAST_SIDE or rows * columns > MOST_PIXELS:
        raise UnusableError("size", f"{columns} by {rows} pixels are not read: at least {LEAST_SIDE} a side, at most {MOST_PIXELS} in all")


def _pixels(dataset: Dataset, syntax: uid.UID) -> NDArray[np.integer]:
    """(rows, columns) of stored values."""
    return _unpacked(dataset, syntax) if syntax in COMPRESSED else _native(dataset, syntax == uid.ExplicitVRBigEndian)


def _unpacked(dataset: Dataset, syntax: uid.UID) -> NDArray[np.integer]:
    with foreign("codec", "its pixel data cannot be decoded"):
        pixels = np.asarray(get_decoder(syntax).as_array(dataset, raw=True)[0])
    if pixels.shape != (dataset.Rows, dataset.Columns) or pixels.dtype.kind not in "iu" or pixels.itemsize > 2:
        raise UnusableError("codec", "its compressed pixel data has another size than it says")
    return pixels


def _native(dataset: Dataset, big_endian: bool) -> NDArray[np.integer]:
    with foreign("damaged", "its pixel data cannot be read"):
        data, count = bytes(dataset.PixelData or b""), int(dataset.Rows) * int(dataset.Columns)
        words = dataset.BitsAllocated == 16
        swapped = big_endian and (words or dataset["PixelData"].VR == "OW")
    if len(data) < (needed := 2 * count if words else count):
        raise UnusableError("truncated", f"it ends early: {len(data)} of {needed} bytes of pixel data are there")
    if swapped:
        data = np.frombuffer(data, ">u2", len(data) // 2).astype("<u2").tobytes()
    return np.frombuffer(data, "<u2" if words else "u1", count).reshape(dataset.Rows, dataset.Columns)
