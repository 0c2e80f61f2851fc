"""The answer to a radiograph: a structured report, and a capture with the heat map where there is one."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from agent.dicom.capture import capture
from agent.dicom.common import completed
from agent.dicom.reading import foreign, parse
from agent.dicom.report import report
from agent.studies import StudyFolders


def answer_files(folders: StudyFolders, item: str) -> list[bytes]:
    """DICOM files (PS3.10): the report, then the capture. Raises UnusableError (`damaged`, `answer`), StudyError."""
    result = folders.result(item)
    source = parse(folders.instance(item).data)
    with foreign("answer", "no answer can be made for it"):
        completed(source)
        made = [report(source, result)]
        if result.heat_map is not None:
            made.append(capture(source, folders.picture(item).image, result))
        return [_file(dataset) for dataset in made]


def _file(dataset: Dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
