"""Whether the hub's door lets this device in."""

from __future__ import annotations

from agent.checkup import Check
from agent.identity.folder import IdentityFolder
from agent.settings import Settings
from agent.uplink.door import Door, DoorError

LABEL = "hub's door"


def door_checks(settings: Settings) -> list[Check]:
    """One where the settings name it."""
    if settings.hub is None:
        return []
    try:
        Door(settings.hub.url, IdentityFolder(settings.identity_dir)).get("")
    except DoorError as error:
        return [Check(LABEL, "fail", str(error), "Without it no pictures and no shared identities; results go to the broker all the same.")]
    return [Check(LABEL, "ok", f"{settings.hub.url} lets this device in")]
