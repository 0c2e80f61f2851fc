"""What this device does at the hub's door, as far as its own settings allow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent.errors import UsageError
from agent.hub_settings import HubLinkSettings
from agent.identity.folder import IdentityFolder
from agent.outbox import Outbox
from agent.uplink.actions import text_of
from agent.uplink.commands import Handler
from agent.uplink.door import Door
from agent.uplink.door_live import LiveViews
from agent.uplink.door_pictures import Pictures
from agent.uplink.shared_at import SharedAt
from agent.uplink.sharing import Sharing
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionLink


class HubLink:
    """Pictures, live views and shared identities. Without the section `hub` its commands say so, and the door at which this device has
    shared identities hears that it leaves."""

    def __init__(
        self,
        settings: HubLinkSettings | None,
        folder: IdentityFolder,
        vision: VisionLink,
        outbox: Outbox,
        status: UplinkStatus,
        state_dir: Path,
    ) -> None:
        shared_at = SharedAt(state_dir)
        url = settings.url if settings else shared_at.url
        door = Door(url, folder) if url else None
        self._pictures = Pictures(door, vision, status) if settings and door and settings.pictures else None
        self._live = LiveViews(door, vision, outbox, status) if settings and door and settings.live else None
        enabled = settings is not None and settings.identities
        self._sharing = Sharing(door, vision, folder, outbox, status, shared_at, enabled=enabled) if door else None

    def handlers(self) -> dict[str, Handler]:
        """A line for each command."""
        return {"live": self._show, "snapshot": self._snapshot, "sync-identities": self._sync}

    def start(self, stops: ExitStack) -> None:
        """Begin what is allowed."""
        if self._pictures:
            self._pictures.start()
            stops.callback(self._pictures.stop)
        if self._live:
            stops.callback(self._live.stop)
        if self._sharing:
            self._sharing.start()
            stops.callback(self._sharing.stop)

    def _sync(self, _arguments: Mapping[str, Any]) -> None:
        """Ask the door what is to be done about shared identities."""
        if self._sharing is None:
            raise UsageError("this device does not share identities (hub.identities)")
        self._sharing.wake()

    def _snapshot(self, arguments: Mapping[str, Any]) -> Any:
        """`stream`: its name. The picture goes to the hub's door."""
        if self._pictures is None:
            raise UsageError("this device's settings do not allow pictures for the hub (hub.pictures)")
        return self._pictures.snapshot(text_of(arguments, "stream"))

    def _show(self, arguments: Mapping[str, Any]) -> Any:
        """`stream`, `token`: of the view that waits at the door; `seconds` at most."""
        if self._live is None:
            raise UsageError("this device's settings do not allow live pictures for the hub (hub.live)")
        seconds = arguments.get("seconds")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
            raise UsageError("args: seconds: is required, as a number above 0")
        self._live.begin(text_of(arguments, "stream"), text_of(arguments, "token"), float(seconds))
        return {"stream": arguments["stream"]}
