"""What reports and captures have in common: whose they are, what made them, and what of the radiograph's study they repeat."""

from __future__ import annotations

from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from agent import __version__
from agent.dicom.decode import MANUFACTURER
from agent.dicom.uids import derived
from agent.studies import StudyResult

NOTICE = "Unverified machine output: no diagnosis without a review."
"""At most 64 characters (VR LO)."""
REPEATED = (
    "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "PatientName",
    "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "IssuerOfPatientID",
)  # fmt: skip
"""Of the patient and study modules (PS3.3, C.7.1.1 and C.7.2.1)."""
REQUIRED = (
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
)
"""Those of type 2: present, be it empty."""


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3, 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def completed(source: Dataset) -> None:
    """Give `source` what other objects of its study must repeat."""
    if not source.get("StudyInstanceUID"):
        source.StudyInstanceUID = derived(str(source.SOPInstanceUID), "", "study")
    if not source.get("SeriesInstanceUID"):
        source.SeriesInstanceUID = derived(str(source.SOPInstanceUID), "", "series")
    for name in REQUIRED:
        if name not in source:
            setattr(source, name, None)
    if not source.PatientSex or source.PatientSex not in ("M", "F", "O"):
        source.PatientSex = None


def equip(dataset: Dataset, result: StudyResult) -> None:
    """Name the maker, and the model as contributing equipment (PS3.3, C.12.1.1.5)."""
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = "Almena"
    dataset.SoftwareVersions = __version__
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([coded("109102", "DCM", "Processing Equipment")])
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = result.model[:64]
    item.SoftwareVersions = __version__
    item.ContributionDateTime = made(result).strftime("%Y%m%d%H%M%S.%f")
    item.ContributionDescription = NOTICE
    dataset.ContributingEquipmentSequence = Sequence([item])


def made(result: StudyResult) -> datetime:
    """When the model answered, in local time, which DICOM's dates and times are in."""
    return datetime.fromtimestamp(result.made_at)
