"""A stream of radiographs without DICOM: `python -m tests.fakes.study_stream STATE CARD` runs its source and task until it is stopped."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.dicom_settings import DicomSettings
from agent.outbox import Outbox
from agent.settings import OutboxSettings, Settings
from agent.studies import StudyFolders, StudyPicture
from agent.vision.pipeline import Pipeline
from agent.vision.sources.dicom import DicomConfig, DicomSource
from agent.vision.tasks.study import StudyConfig, StudyTask
from tests.fakes.mapped_model import CHEST, save_model, write_card
from tests.fakes.plugins import NoViewer

SIDE = 64


def chest_card(folder: Path) -> Path:
    """Bright pictures are covid, dark ones normal, those between pneumonia; on the way scores are close. covid from 0.5 on."""
    model = save_model(folder / "chest.onnx", SIDE, (40.0, -40.0, 0.0), (-26.0, 14.0, 0.0))
    return write_card(model, CHEST, SIDE, 0.5, maps="maps")


def settings(state: Path) -> Settings:
    """Of the vision process."""
    engines = {"backend": "onnxruntime", "precision": "fp32"}
    return Settings.model_validate({"state_dir": state, "engines": engines, "dicom": DicomSettings()})


def image(shade: int, rows: int = 96, columns: int = 80) -> NDArray[np.uint8]:
    """Of one shade."""
    return np.full((rows, columns), shade, np.uint8)


def put(folders: StudyFolders, name: str, pixels: NDArray[np.uint8], **about: Any) -> str:
    """A radiograph as the DICOM process would hand it on; its item."""
    item = folders.item(name)
    folders.write_picture(StudyPicture(item, pixels, received_at=time.time(), received_ns=time.monotonic_ns(), **about))
    return item


@contextmanager
def running(state: Path, card: Path, **config: Any) -> Iterator[tuple[Pipeline, Outbox]]:
    """The stream while it runs."""
    ours = settings(state)
    with Outbox.open(state / "outbox", "dev", OutboxSettings()) as outbox:
        source = DicomSource(DicomConfig(), "xray")
        source.prepare(ours)
        task = StudyTask(StudyConfig.model_validate({"model": str(card), "pixels": False, **config}), "xray", ours)
        pipeline = Pipeline(source, (task,), outbox, NoViewer())
        pipeline.start()
        try:
            yield pipeline, outbox
        finally:
            pipeline.stop()


def main() -> None:
    """Until it is killed."""
    with running(Path(sys.argv[1]), Path(sys.argv[2])):
        print("running", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
