"""Plug-ins by name. A name becomes a module only when somebody asks for it."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from agent.errors import AlmenaError

SOURCES = {
    "v4l2": "agent.vision.sources.v4l2:V4l2Source",
    "gstreamer": "agent.vision.sources.gstreamer:GStreamerSource",
    "rtsp": "agent.vision.sources.rtsp:RtspSource",
    "video": "agent.vision.sources.video:VideoSource",
    "folder": "agent.vision.sources.folder:FolderSource",
    "mjpeg": "agent.vision.sources.mjpeg:MjpegSource",
    "dicom": "agent.vision.sources.dicom:DicomSource",
}

TASKS = {
    "faces": "agent.vision.tasks.faces:FacesTask",
    "classification": "agent.vision.tasks.classification:ClassificationTask",
    "study": "agent.vision.tasks.study:StudyTask",
}

CONFIGS = {
    "faces": "agent.vision.tasks.faces_config:FacesConfig",
    "classification": "agent.vision.tasks.classification_config:ClassificationConfig",
    "study": "agent.vision.tasks.study_config:StudyConfig",
}
"""Settings that lie apart from their plug-in, because that takes long to import; those of the others are its `Config`."""


class UnknownPluginError(AlmenaError):
    """No plug-in of that name; the message lists those that exist."""


def resolve(table: dict[str, str], name: str, what: str) -> Any:
    """The class that `name` stands for in `table`; `what` names the kind of plug-in in the error."""
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownPluginError(f"no {what} is called {name!r}.{hint} There are: {', '.join(sorted(table))}.")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def config_of(table: dict[str, str], name: str, what: str) -> Any:
    """The class of the settings of a plug-in."""
    return resolve(CONFIGS, name, what) if name in CONFIGS else resolve(table, name, what).Config
