"""`almena fleet maintenance …`, `remove` and `give-up`: keeping a fleet in order."""

from __future__ import annotations

import json
import time
from enum import Enum
from typing import Annotated
from urllib.parse import quote

import typer

from agent.errors import AlmenaError
from agent.moments import moment_of
from fleet import show
from fleet.client import HubClient, access
from fleet.command_options import AsJson, HubFile

maintenance = typer.Typer(add_completion=False, no_args_is_help=True, help="Where somebody works: nobody is told of alerts meanwhile.")
HOUR = 3600.0


class Kind(str, Enum):
    """Where."""

    device = "device"
    site = "site"
    group = "group"


@maintenance.command("list")
def list_windows(hub: HubFile = None, as_json: AsJson = False) -> None:
    """List where somebody works now or will, the first to end first."""
    with HubClient(access(hub)) as client:
        found = client.ask("GET", "maintenance")["maintenance"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (one["id"], one["kind"], one["name"], *map(show.moment, (one["begins"], one["ends"])), one["by"], one["reason"]) for one in found
    ]
    show.table(("id", "of", "name", "begins", "ends", "by", "why"), rows, "no maintenance")


@maintenance.command("begin")
def begin(
    kind: Annotated[Kind, typer.Argument(help="Where.")],
    name: Annotated[str, typer.Argument(help="Its name.")],
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="How long.")] = 1.0,
    begins: Annotated[str | None, typer.Option(help="Date and time (ISO 8601; local unless it says); default: now.")] = None,
    reason: Annotated[str, typer.Option(help="What is done there.")] = "",
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell nobody of alerts of a device, a site or a group for some hours; of what still fires then, people are told."""
    now = time.time()
    at = moment_of(begins, now)
    ends = (now if at is None else at) + hours * HOUR
    body = {"kind": kind.value, "name": name, "begins": at, "ends": ends, "reason": reason}
    with HubClient(access(hub)) as client:
        made = client.ask("POST", "maintenance", body)["id"]
    print(
        json.dumps({"id": made, "ends": ends}) if as_json else f"maintenance {made} of the {kind.value} {name} ends at {show.moment(ends)}"
    )


@maintenance.command("end")
def end(window: Annotated[int, typer.Argument(help="Its id.")], hub: HubFile = None, as_json: AsJson = False) -> None:
    """End maintenance now, or call it off."""
    with HubClient(access(hub)) as client:
        client.ask("DELETE", f"maintenance/{window}")
    print(json.dumps({"ended": window}) if as_json else f"maintenance {window} is over")


def remove(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Have the hub forget a device that does not speak any more. What it saw stays; if it speaks again, it is a new one."""
    if not yes and not typer.confirm(f"Forget {device}, its charts and its settings? This cannot be undone."):
        raise AlmenaError("nothing was removed")
    with HubClient(access(hub)) as client:
        client.ask("DELETE", f"devices/{quote(device, safe='')}")
    print(json.dumps({"removed": device}) if as_json else f"{device} is removed; to keep it away: almena fleet revoke {device}")


def give_up(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Count what is missing of a device as lost for good, so that its alert ends. What comes all the same is taken."""
    path = f"devices/{quote(device, safe='')}/losses"
    with HubClient(access(hub)) as client:
        if not yes:
            missing = client.ask("GET", path)["missing_total"]
            if missing and not typer.confirm(f"Count {missing} missing numbers of {device} as lost?"):
                raise AlmenaError("nothing was given up")
        lanes = client.ask("POST", f"{path}/give-up")["given_up"]
    told = ", ".join(f"{lane} {count}" for lane, count in lanes.items())
    print(json.dumps({"given_up": lanes}) if as_json else f"lost for good: {told}" if lanes else f"nothing of {device} is missing")
