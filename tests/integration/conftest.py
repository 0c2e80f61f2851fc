"""Fixtures of the DICOM tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.orthanc import Orthanc


@pytest.fixture
def collected() -> Iterator[None]:
    """Garbage is collected here, and not in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    """Not started yet."""
    server = Orthanc(tmp_path / "orthanc")
    yield server
    server.stop()
