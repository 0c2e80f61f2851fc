"""What of a device's settings its hub may change."""

from __future__ import annotations

from pydantic import Field

from agent.config import Config, Folder

REMOTE = ("streams", "engines", "serving", "telemetry", "outbox")
"""Sections that a hub may want. Who a device is, its keys, its page, its broker, its gallery and where patients' pictures go is decided
on the device alone."""


class RemoteSettings(Config):
    """What a hub may change on this device; it cannot change this section."""

    settings: bool = Field(
        True, description="Take over the sections that the hub wants: streams, engines, serving, telemetry, outbox; `false` refuses them."
    )
    folders: tuple[Folder, ...] = Field((), description="They may name files in these folders, besides the files that this file names.")
    pipelines: bool = Field(False, description="They may hold GStreamer pipelines that are not in this file; a pipeline can do anything.")
