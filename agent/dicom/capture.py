"""The capture: the radiograph with the heat map over it and the result in writing, a Secondary Capture image (PS3.3, A.8.1)."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage

from agent.dicom.common import NOTICE, REPEATED, UTF8, coded, equip, made
from agent.dicom.uids import derived
from agent.studies import StudyResult

SERIES = 9802
LONGEST = 1024
"""Pixels of the longer side."""
STRENGTH = 0.55
"""Share of the heat's colour where it is hottest."""


def capture(source: Dataset, image: NDArray[np.uint8], result: StudyResult) -> Dataset:
    """Of one instance that is `completed`; `image` is its (H, W) grey picture, and the result has a heat map."""
    pixels = _burned_in(_overlaid(image, result.heat_map or b""), result)
    instance = str(source.SOPInstanceUID)
    dataset = Dataset()
    for name in REPEATED:
        if name in source:
            setattr(dataset, name, source.get(name))
    dataset.SpecificCharacterSet = UTF8
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = derived(instance, result.model, "capture")
    dataset.SeriesInstanceUID = derived(instance, result.model, "capture series")
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES, 1
    dataset.SeriesDescription = "Machine heat map, unverified"
    dataset.Modality, dataset.ConversionType = "OT", "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    how = f" ({result.explained})" if result.explained else ""
    dataset.DerivationDescription = f"Regions that spoke most for the answer of a classifier{how}, drawn over the radiograph"
    dataset.ContentDate = dataset.SeriesDate = made(result).strftime("%Y%m%d")
    dataset.ContentTime = dataset.SeriesTime = made(result).strftime("%H%M%S.%f")
    dataset.PatientOrientation = source.get("PatientOrientation")
    dataset.Laterality = source.get("Laterality")
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageComments = NOTICE
    dataset.SourceImageSequence = Sequence([_reference(source)])
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PixelRepresentation = 3, 0, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = pixels.tobytes() + bytes(pixels.size % 2)
    equip(dataset, result)
    return dataset


def _reference(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = Sequence([coded("121322", "DCM", "Source image for image processing operation")])
    return item


def _overlaid(image: NDArray[np.uint8], heat_map: bytes) -> Image.Image:
    """Red where it is hottest over yellow to nothing; no larger than LONGEST."""
    height, width = image.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    grey = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), np.float32)
    heat = np.asarray(Image.open(BytesIO(heat_map)).convert("L").resize(size, Image.Resampling.BICUBIC), np.float32) / 255.0
    colour = np.stack([np.full_like(heat, 255.0), 220.0 * (1.0 - heat), np.zeros_like(heat)], axis=-1)
    share = (STRENGTH * heat)[..., None]
    return Image.fromarray(np.rint((1.0 - share) * grey[..., None] + share * colour).astype(np.uint8))


def _burned_in(picture: Image.Image, result: StudyResult) -> NDArray[np.uint8]:
    """The picture above a strip that says what it is, so that no viewer shows it without."""
    size = max(picture.width // 48, 10)
    scores = ", ".join(f"{label} {probability:.3f}" for label, probability in result.probabilities.items())
    lines = (NOTICE, f"{result.model}: {result.decision or 'no answer'} ({scores})")
    font = ImageFont.load_default(size)
    written = [part for line in lines for part in _wrapped(line, font, picture.width - 2 * size)]
    sheet = Image.new("RGB", (picture.width, picture.height + (2 * len(written) + 1) * size), "black")
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(written):
        pen.text((size, picture.height + (2 * number + 0.5) * size), line, fill="white", font=font)
    return np.asarray(sheet)


def _wrapped(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """In as many lines as it takes, divided between words."""
    found = [""]
    for word in line.split():
        longer = f"{found[-1]} {word}".lstrip()
        if found[-1] and font.getlength(longer) > width:
            found.append(word)
        else:
            found[-1] = longer
    return found
