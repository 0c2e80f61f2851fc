"""Radiographs drawn by the code, as DICOM files, and the DICOM process's parts in a test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from agent.dicom.service import Dicom
from agent.settings import Settings
from agent.studies import SealedFolder, StudyFolders, StudyResult
from tests.waiting import wait_until

ROOT_UID = "1.2.826.0.1.3680043.10.1337"
PATIENT = "Unmistakable^Änna"
MODEL = "chest-xray@0123456789ab"
SOCKETS_LEFT = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"), pytest.mark.usefixtures("collected")]
"""Marks: pynetdicom's clients leave the sockets of connections that broke to the garbage collector."""


def phantom(height: int = 96, width: int = 80, seed: int = 0) -> NDArray[np.float64]:
    """(H, W) from 0 to 1: a bright body with two dark lungs, ribs, and noise that the seed decides."""
    y, x = np.mgrid[0:height, 0:width] / np.array([[[height]], [[width]]])
    body = np.exp(-(((x - 0.5) / 0.42) ** 6) - ((y - 0.55) / 0.5) ** 6) * 0.75
    for centre in (0.32, 0.68):
        body -= 0.45 * np.exp(-(((x - centre) / 0.13) ** 2) - ((y - 0.5) / 0.3) ** 2)
    body += 0.05 * np.sin(40 * y + 4 * np.cos(6 * x)) + 0.02 * np.random.default_rng(seed).normal(size=(height, width))
    return np.clip(body + 0.1, 0.0, 1.0)


def radiograph(number: int = 1, pixels: NDArray[Any] | None = None, **elements: Any) -> Dataset:
    """A chest radiograph, DX, 12 bits; `elements` replace or (None) remove elements."""
    pixels = np.rint(phantom(seed=number) * 4095).astype(np.uint16) if pixels is None else pixels
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, f"{ROOT_UID}.3.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT_UID}.1.{number}", f"{ROOT_UID}.2.{number}"
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = PATIENT, f"secret-{number}", "F"
    dataset.PatientBirthDate, dataset.StudyDate, dataset.StudyTime = "19700101", "20260102", "101112"
    dataset.Modality, dataset.ViewPosition, dataset.BodyPartExamined = "DX", "PA", "CHEST"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = "MONOCHROME2", 1, 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, 12 if pixels.itemsize == 2 else 8, 7
    dataset.HighBit = dataset.BitsStored - 1
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def file_of(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """As a DICOM file."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def instance(number: int = 1, pixels: NDArray[Any] | None = None, **elements: Any) -> bytes:
    """`radiograph` as a DICOM file."""
    return file_of(radiograph(number, pixels, **elements))


def result(item: str, *, heat: bool = True, abstained: str = "", asked: bool = True) -> StudyResult:
    """What a model might have said."""
    png = BytesIO()
    Image.fromarray(np.rint(255 * phantom(8, 8)).astype(np.uint8)).save(png, "PNG")
    scores = {"covid": 0.71, "normal": 0.09, "pneumonia": 0.2} if asked else {}
    decision, findings = ("", ()) if abstained else ("covid", ("The model's score for covid is above its threshold.",))
    return StudyResult(
        item, MODEL, scores, "covid", 0.4, decision, abstained, findings, png.getvalue() if heat else None, {"infer": 0.1}, time.time()
    )


def analyse(folders: StudyFolders, item: str, **options: Any) -> None:
    """What the vision process does with a picture."""
    folders.write_result(result(item, **options))
    folders.picture_done(item)


@contextmanager
def receiving(place: Path, **dicom: Any) -> Iterator[Dicom]:
    """The DICOM process's parts at free ports, in this process; only its worker is another."""
    dicom["receiver"] = {"port": 0} | dicom.get("receiver", {})
    settings = Settings.model_validate({"state_dir": place / "state", "dicom": {"min_free_bytes": 0} | dicom})
    running = Dicom(settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def accept(running: Dicom, number: int) -> str:
    """Take an instance, and wait for its picture."""
    (intake,) = [running.receiver._intake] if running.receiver else []
    item = intake.accept(instance(number)).item
    wait_until(lambda: running.folders.pictures.holds(item), 30, "the picture")
    return item


def damage(folder: SealedFolder, item: str) -> None:
    """Turn a bit in the middle of its file."""
    path = folder.path / item
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
