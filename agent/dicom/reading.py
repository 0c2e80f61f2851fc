"""Foreign DICOM files: what they are, without trusting them."""

from __future__ import annotations

import traceback
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import config, dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag

from agent.errors import AlmenaError

config.settings.reading_validation_mode = config.IGNORE

PREFIX = bytes(128) + b"DICM"
STORAGE = {
    uid.ComputedRadiographyImageStorage: "CR",
    uid.DigitalXRayImageStorageForPresentation: "DX",
    uid.DigitalXRayImageStorageForProcessing: "DX for processing",
    uid.SecondaryCaptureImageStorage: "SC",
}
"""Storage classes that are accepted."""
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
COMPRESSED = (
    uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless, uid.JPEG2000, uid.RLELossless,
)  # fmt: skip
SYNTAXES = (*NATIVE, uid.DeflatedExplicitVRLittleEndian, *COMPRESSED)
"""Transfer syntaxes that are accepted, the preferred first."""
SOP_INSTANCE_UID = 0x00080018


class UnusableError(AlmenaError):
    """An instance that cannot be used. `reason` is a stable code; the message holds nothing of the instance."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Which instance a file holds."""

    instance: str
    sop_class: str
    syntax: str


@contextmanager
def foreign(reason: str, what: str) -> Iterator[None]:
    """Whatever a parser makes of foreign bytes becomes an UnusableError, whose message repeats nothing of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UnusableError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - the supervisor of foreign parsers: whatever they raise means that the bytes are unusable
        raise UnusableError(reason, f"{what} ({type(error).__name__}, {place(error)})") from None


def place(error: Exception) -> str:
    """File and line where it was raised: all that may be told of an error whose message may quote a data set."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def identify(data: bytes) -> Identity:
    """Of a DICOM file (PS3.10) in bytes; reads no further than its SOP Instance UID. Raises UnusableError.

    Reasons: `not-dicom`, `transfer-syntax`, `sop-class`, `uid`.
    """
    found = named(data)
    if found.syntax not in SYNTAXES:
        raise UnusableError("transfer-syntax", "its transfer syntax is not supported; send it uncompressed, or as JPEG, JPEG 2000 or RLE")
    if found.syntax == uid.DeflatedExplicitVRLittleEndian:
        raise UnusableError("transfer-syntax", "it is deflated")
    if found.sop_class not in STORAGE:
        raise UnusableError("sop-class", "it is neither CR, DX nor Secondary Capture")
    if not uid.UID(found.instance).is_valid:
        raise UnusableError("uid", "its SOP Instance UID is missing or none")
    return found


def named(data: bytes) -> Identity:
    """What a file says that it holds, whether that can be used or not; empty where it is deflated. Raises UnusableError (`not-dicom`)."""
    _, syntax, start = _meta(data)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        return Identity("", "", syntax)
    with foreign("not-dicom", "its first elements cannot be read"):
        file = BytesIO(data)
        file.seek(start)
        found = read_dataset(
            file,
            syntax == uid.ImplicitVRLittleEndian,
            syntax != uid.ExplicitVRBigEndian,
            stop_when=lambda tag, _vr, _length: tag > SOP_INSTANCE_UID,
        )
        return Identity(str(found.get("SOPInstanceUID", "")), str(found.get("SOPClassUID", "")), syntax)


def inflated(data: bytes, limit: int) -> bytes:
    """`data`, or if it is deflated the same file as Explicit VR Little Endian. Raises UnusableError (`not-dicom`, `too-large`)."""
    meta, syntax, start = _meta(data)
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with foreign("not-dicom", "its deflated part is damaged"):
        plain = inflater.decompress(memoryview(data)[start:], limit)
    if inflater.unconsumed_tail:
        raise UnusableError("too-large", "inflated it is larger than dicom.max_instance_bytes")
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    file = DicomBytesIO(PREFIX)
    file.seek(len(PREFIX))
    with foreign("not-dicom", "its file meta information is incomplete"):
        write_file_meta_info(file, meta, enforce_standard=True)
    return file.getvalue() + plain


def parse(data: bytes) -> Dataset:
    """The whole of a file that `identify` has taken. Raises UnusableError (`damaged`)."""
    with foreign("damaged", "it cannot be read to its end"):
        return dcmread(BytesIO(data))


def meta_of(data: bytes) -> tuple[str, int]:
    """The transfer syntax of a file, and where its data set begins. Raises UnusableError (`not-dicom`)."""
    _, syntax, start = _meta(data)
    return syntax, start


def _meta(data: bytes) -> tuple[FileMetaDataset, str, int]:
    """File meta information, the transfer syntax that it names, and where the data set begins."""
    if data[128:132] != b"DICM":
        raise UnusableError("not-dicom", "it is no DICOM file: the prefix DICM is missing")
    file = BytesIO(data)
    file.seek(len(PREFIX))
    with foreign("not-dicom", "its file meta information cannot be read"):
        meta = FileMetaDataset(read_dataset(file, False, True, stop_when=_after_meta))
        return meta, str(meta.get("TransferSyntaxUID", "")), file.tell()


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2
