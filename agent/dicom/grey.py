"""Stored values become grey: modality transform, VOI transform, and the sense of the scale (PS3.3, C.11.1, C.11.2, C.7.6.3.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from agent.dicom.reading import UnusableError

Values = NDArray[np.float64]
ROWS = 32
"""Of a picture that are looked up at once: numpy makes 64-bit indices of them, which fit into a cache then."""


def to_grey(pixels: NDArray[np.integer], dataset: Dataset, big_endian: bool) -> NDArray[np.uint8]:
    """(H, W) stored values, 8 or 16 bits allocated, as 8-bit grey in which 255 is white.

    Takes the VOI LUT if there is one, else the first window, else the range that the picture's values have without padding (all of it for 8
    bits).
    Raises UnusableError (`window`).
    """
    stored, high = int(dataset.BitsStored), int(dataset.get("HighBit", dataset.BitsStored - 1))
    signed = bool(dataset.get("PixelRepresentation", 0))
    codes = pixels.view(f"u{pixels.itemsize}")
    if high != stored - 1:
        codes = codes >> (high + 1 - stored)
    mask = (1 << stored) - 1
    if mask < np.iinfo(codes.dtype).max:
        codes = codes & codes.dtype.type(mask)
    table, grey = _table(stored, signed, codes, dataset, big_endian), np.empty(codes.shape, np.uint8)
    for row in range(0, len(codes), ROWS):
        np.take(table, codes[row : row + ROWS], out=grey[row : row + ROWS], mode="clip")
    return grey


def _table(stored: int, signed: bool, codes: NDArray[np.unsignedinteger], dataset: Dataset, big_endian: bool) -> NDArray[np.uint8]:
    """The grey of each code, 2**stored entries."""
    values = np.arange(1 << stored, dtype=np.float64)
    if signed:
        values[1 << (stored - 1) :] -= 1 << stored
    padding = _padding(values, dataset)
    values = _modality(values, dataset, big_endian)
    shown = _voi(values, dataset, big_endian)
    if shown is None:
        if stored <= 8:
            used = values
        elif signed or padding.any() or dataset.get("ModalityLUTSequence"):
            here = np.bincount(codes.ravel(), minlength=len(values)) > 0
            used = values[here & ~padding if (here & ~padding).any() else here]
        else:  # values grow, or fall, with their codes
            used = values[[codes.min(), codes.max()]]
        low, high = float(used.min()), float(used.max())
        shown = (values - low) / max(high - low, 1e-9)
    if not np.isfinite(shown).all():
        raise UnusableError("window", "its window or its rescale values are no numbers")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1.0 - shown
    return np.rint(255.0 * np.clip(shown, 0.0, 1.0)).astype(np.uint8)


def _padding(values: Values, dataset: Dataset) -> NDArray[np.bool_]:
    """Which stored values are no part of the picture (PS3.3, C.7.5.1.1.2)."""
    first = _first(dataset.get("PixelPaddingValue"))
    if first is None:
        return np.zeros(values.shape, np.bool_)
    last = _first(dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted((first, first if last is None else last))
    return (low <= values) & (values <= high)


def _modality(values: Values, dataset: Dataset, big_endian: bool) -> Values:
    if dataset.get("ModalityLUTSequence"):
        return _looked_up(values, dataset.ModalityLUTSequence[0], big_endian)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return values * float(slope) + float(intercept) if slope is not None and intercept is not None else values


def _voi(values: Values, dataset: Dataset, big_endian: bool) -> Values | None:
    """0 to 1, or None where the data set names neither a LUT nor a window."""
    if dataset.get("VOILUTSequence"):
        found, depth = _looked_up(values, dataset.VOILUTSequence[0], big_endian)
        return found / ((1 << depth) - 1)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(dataset.get("VOILUTFunction", "LINEAR")).upper()
    if width < (1 if function == "LINEAR" else 1e-9):
        raise UnusableError("window", "its window has no width")
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if function == "LINEAR":
        return (values - (centre - 0.5)) / max(width - 1.0, 1e-9) + 0.5
    raise UnusableError("window", "its VOI LUT function is none of the standard's")


def _first(value: object) -> float | None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)  # type: ignore[arg-type]


def _looked_up(values: Values, item: Dataset, big_endian: bool) -> tuple[Values, int]:
    """Values through a LUT, and the bits of its entries (PS3.3, C.11.1.1.1 and C.11.2.1.1)."""
    entries, first, depth = (int(part) for part in item.LUTDescriptor)
    entries = entries or 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        kind = "u1" if len(data) < 2 * entries else ">u2" if big_endian else "<u2"
        data = np.frombuffer(data, kind)
    table = np.atleast_1d(np.asarray(data, np.float64))[:entries]
    if len(table) < entries or not 8 <= depth <= 16:
        raise UnusableError("window", "a lookup table of it is incomplete")
    return table[np.clip(values - first, 0, entries - 1).astype(np.int64)], depth
