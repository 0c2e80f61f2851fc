"""The files of pages: those of one page, and those that the pages of agent and hub share."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

SHARED = Path(__file__).with_name("static")


def static_files(folder: Path) -> StaticFiles:
    """Answers with what is in `folder`, or else in the shared folder."""
    files = StaticFiles(directory=folder)
    files.all_directories.append(SHARED)
    return files


def html(file: Path) -> FileResponse:
    """A page."""
    return FileResponse(file, media_type="text/html; charset=utf-8")


def icon() -> FileResponse:
    """What browsers ask for as /favicon.ico."""
    return FileResponse(SHARED / "icon.svg", media_type="image/svg+xml")
