"""The radiographs of the demo as DICOM files: two public ones, a phantom, and what must be rejected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from agent.xray_demo.phantom import BITS, chest_phantom


@dataclass(frozen=True, slots=True)
class Film:
    """One radiograph, its name in the demo's own file names, and what it is."""

    name: str
    title: str
    dataset: Dataset


def films(chest: Path, leg: Path) -> Iterator[Film]:
    """From pydicom-data's files RG1 and RG3. Their UIDs are new at each call, as if of new examinations. Raises OSError."""
    yield Film("chest", "a radiograph of a chest: CR, 1841x1955, 15 bits, uncompressed", _renewed(dcmread(chest)))
    yield Film("phantom", "a chest that the code has drawn: DX, 680x800, 12 bits", _phantom())
    yield Film("leg", "a radiograph of a leg, as its tags say: CR, 1760x1760, 10 bits, JPEG 2000", _renewed(dcmread(leg)))
    mislabelled = _renewed(dcmread(leg))
    mislabelled.BodyPartExamined, mislabelled.ViewPosition = "CHEST", "PA"
    yield Film("mislabelled", "the same leg, under the tags of a chest", mislabelled)
    cut = _renewed(dcmread(chest))
    cut.PixelData = cut.PixelData[: len(cut.PixelData) // 4 * 2]
    yield Film("cut", "the chest again, half of its pixels missing", cut)


def _renewed(dataset: Dataset) -> Dataset:
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid(), generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _phantom() -> Dataset:
    pixels = chest_phantom()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    now = datetime.now()
    dataset.StudyDate, dataset.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Phantom^Drawn", "PHANTOM", "", "O"
    dataset.Modality, dataset.ViewPosition, dataset.BodyPartExamined = "DX", "PA", "CHEST"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = "MONOCHROME2", 1, 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, BITS, BITS - 1
    dataset.add_new("PixelData", "OW", pixels.astype("<u2").tobytes())
    return _renewed(dataset)
