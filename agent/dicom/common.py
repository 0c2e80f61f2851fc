"""What reports and captures have in common: whose they are, what made them, and what of the radiograph's study they repeat."""

from __future__ import annotations

import logging
import re
from datetime import datetime

from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import validate_value

from agent import __version__
from agent.dicom.decode import MANUFACTURER
from agent.dicom.uids import derived
from agent.studies import StudyResult

log = logging.getLogger(__name__)

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


UTF8 = "ISO_IR 192"
NAMES = ("PatientName", "ReferringPhysicianName")
"""They keep the bytes that they were read from."""
_DATE = re.compile(r"(\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01]))?")
_TIME = re.compile(r"(([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?)?")
WRITTEN = {"DA": _DATE, "TM": _TIME}
"""How dates and times are written; pydicom takes ranges of them, too (PS3.5, 6.2)."""
OF_ONE_LINE = ("AE", "AS", "CS", "LO", "PN", "SH", "UI")
CHECKED = (*WRITTEN, *OF_ONE_LINE, "DT", "LT", "ST", "UR")


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3, 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def completed(source: Dataset) -> None:
    """Give `source`, once, what other objects of its study must repeat, in UTF-8 whatever character sets it came in; what is not written as
    its VR demands is left out, and a UID of the study or series that is none is derived anew.
    """
    _leave_out(source)
    try:
        source.decode()
    except (LookupError, ValueError) as error:
        log.warning("the character set of a radiograph is not known; its texts are repeated as they can be read: %s", type(error).__name__)
    for name in NAMES:
        if name in source:
            setattr(source, name, str(source.get(name) or ""))
    source.SpecificCharacterSet = UTF8
    if not source.get("StudyInstanceUID"):
        source.StudyInstanceUID = derived(str(source.SOPInstanceUID), "", "study")
    if not source.get("SeriesInstanceUID"):
        source.SeriesInstanceUID = derived(str(source.SOPInstanceUID), "", "series")
    for name in REQUIRED:
        if name not in source:
            setattr(source, name, None)
    if not source.PatientSex or source.PatientSex not in ("M", "F", "O"):
        source.PatientSex = None


def _leave_out(source: Dataset) -> None:
    """Remove, and name in the log, what cannot be read or is not written as its VR demands (PS3.5, 6.2), also within sequences."""
    for tag in list(source.keys()):
        try:
            element = source[tag] = _with_own_vr(source[tag])
            if element.VR == "SQ":
                for item in element.value:
                    _leave_out(item)
            elif element.VR in CHECKED:
                _require_written(element)
        except Exception as error:  # noqa: BLE001 - the supervisor of foreign elements: whatever one raises, the others are repeated
            log.warning(
                "%s is left out of an answer: it is not written as it must be (%s)", keyword_for_tag(tag) or tag, type(error).__name__
            )
            del source[tag]


def _with_own_vr(element: DataElement) -> DataElement:
    """As the dictionary has it, where it came with the VR of another kind of text or number. Raises ValueError where that is none."""
    own = dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else element.VR
    if own == element.VR or own not in CHECKED:
        return element
    if element.VR in ("SQ", "UN") or isinstance(element.value, bytes):
        raise ValueError(f"{element.VR} is not its VR")
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return DataElement(element.tag, own, "\\".join("" if value is None else str(value) for value in values))


def _require_written(element: DataElement) -> None:
    """Raise ValueError where it is not."""
    if isinstance(element.value, MultiValue) and dictionary_has_tag(element.tag) and dictionary_VM(element.tag) == "1":
        raise ValueError("several values")
    for value in element.value if isinstance(element.value, MultiValue) else [element.value]:
        text = str(value or "")
        validate_value(element.VR, text, config.RAISE)
        if element.VR in WRITTEN and not WRITTEN[element.VR].fullmatch(text):
            raise ValueError("no date or time")
        if element.VR in OF_ONE_LINE and not text.isprintable():
            raise ValueError("control characters")


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
