"""`almena fleet identities …`: people whom the devices of a site share."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from agent.errors import AlmenaError
from fleet import show
from fleet.client import HubClient, access
from fleet.command_options import AsJson, HubFile

identities = typer.Typer(add_completion=False, no_args_is_help=True, help="Identities that devices share: who is known where; erasure.")
Identity = Annotated[str, typer.Argument(help="Its id: p- and hexadecimal digits.")]
Site = Annotated[str, typer.Argument(help="The site's name.")]


@identities.command("list")
def list_identities(
    search: Annotated[str | None, typer.Argument(help="Part of a name, or an id.")] = None,
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Only those that this device has, or is to have.")] = None,
    state: Annotated[str | None, typer.Option(help="shared, erasing or erased.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="So many at most.")] = 1000,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """List who is shared, and how it stands on each device."""
    with HubClient(access(hub)) as client:
        wanted = {"search": search, "site": site, "device": device, "state": state}
        found = list(client.pages("identities", "identities", "after", limit, **wanted))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (one["id"], one["name"] or "(erased)", one["site"], one["origin"], show.moment(one["expires_at"]), one["consent"], _where(one))
        for one in found
    ]
    show.table(("id", "name", "site", "enrolled on", "ends", "consent", "on the devices"), rows, "nobody is shared")


@identities.command("erase")
def erase(
    identity: Identity,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Erase a person on every device and here; each device answers with a receipt. Once more tells those again that have not answered."""
    path = f"identities/{quote(identity, safe='')}"
    with HubClient(access(hub)) as client:
        known = client.ask("GET", path)
        if not yes and not typer.confirm(f"Erase {known['name'] or identity} on every device? This cannot be undone."):
            raise AlmenaError("nothing was erased")
        found = client.ask("POST", f"{path}/erase")
    print(json.dumps(found, indent=2) if as_json else f"{identity} is erased here; on the devices: {_where(found)}")


@identities.command("share")
def share(
    site: Site,
    enabled: Annotated[bool, typer.Option("--on/--off", help="Whether its devices share; after --off each erases what it got.")] = True,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the devices of a site share identities, as far as their own settings let them (`hub.identities`)."""
    with HubClient(access(hub)) as client:
        client.ask("PUT", "sharing", {"site": site, "enabled": enabled})
    print(
        json.dumps({"site": site, "enabled": enabled}) if as_json else f"the devices of {site} share {'' if enabled else 'no '}identities"
    )


def _where(one: dict[str, Any]) -> str:
    return ", ".join(f"{copy['device']}: {copy['state']}" for copy in one["copies"])
