"""`almena fleet keys …` and `almena fleet users …`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from fleet import show
from fleet.client import HubClient, access
from fleet.command_options import AsJson, HubFile, PasswordFile, password

keys = typer.Typer(add_completion=False, no_args_is_help=True, help="API keys: for programs.")
users = typer.Typer(add_completion=False, no_args_is_help=True, help="People who may use the console.")
DAY = 86400.0
Row = tuple[str, ...]


class Role(str, Enum):
    """Of people and keys."""

    viewer = "viewer"
    operator = "operator"
    admin = "admin"


AnyRole = Annotated[Role, typer.Option(help="viewer reads; operator commands, sets and acknowledges; admin changes accounts and rules.")]
UserName = Annotated[str, typer.Argument(help="The person's name.")]


def _list(hub: HubFile, as_json: bool, what: str, columns: Row, row: Callable[[dict[str, Any]], Row], empty: str) -> None:
    with HubClient(access(hub)) as client:
        found = client.ask("GET", what)[what]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show.table(columns, map(row, found), empty)


@keys.command("list")
def list_keys(hub: HubFile = None, as_json: AsJson = False) -> None:
    """List API keys: whose, how long, when last used."""

    def row(one: dict[str, Any]) -> Row:
        return one["id"], one["name"], one["role"], one["created_by"], show.moment(one["expires_at"]), show.ago(one["last_used_at"])

    _list(hub, as_json, "keys", ("id", "name", "role", "made by", "ends", "last used"), row, "no keys yet")


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    role: AnyRole = Role.viewer,
    days: Annotated[float | None, typer.Option(min=0.01, help="How long it holds; default: without end.")] = None,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key, and print it: it cannot be had again."""
    ends = time.time() + days * DAY if days else None
    with HubClient(access(hub)) as client:
        made = client.ask("POST", "keys", {"name": name, "role": role.value, "expires_at": ends})
    print(json.dumps(made) if as_json else made["key"])


@keys.command("remove")
def remove_key(key: Annotated[str, typer.Argument(help="Its id.")], hub: HubFile = None, as_json: AsJson = False) -> None:
    """Take an API key back: it is refused from now on."""
    with HubClient(access(hub)) as client:
        client.ask("DELETE", f"keys/{quote(key, safe='')}")
    print(json.dumps({"removed": key}) if as_json else f"{key} is refused from now on")


@users.command("list")
def list_users(hub: HubFile = None, as_json: AsJson = False) -> None:
    """List people with their roles."""

    def row(one: dict[str, Any]) -> Row:
        return one["name"], one["role"], show.moment(one["created_at"])

    _list(hub, as_json, "users", ("name", "role", "since"), row, "nobody yet")


@users.command("add")
def add_user(name: UserName, role: AnyRole = Role.viewer, file: PasswordFile = None, hub: HubFile = None, as_json: AsJson = False) -> None:
    """Add a person; the first one is added on the hub's own machine by `almena hub add-user`."""
    with HubClient(access(hub)) as client:
        client.ask("POST", "users", {"name": name, "password": password(file), "role": role.value})
    print(json.dumps({"name": name, "role": role.value}) if as_json else f"{name} may log in as {role.value}")


@users.command("change")
def change_user(
    name: UserName,
    role: Annotated[Role | None, typer.Option(help="Another role.")] = None,
    new_password: Annotated[bool, typer.Option("--password", help="Another password, which is asked for.")] = False,
    file: PasswordFile = None,
    hub: HubFile = None,
    as_json: AsJson = False,
) -> None:
    """Another role or password; running sessions of this person end."""
    other = password(file) if new_password or file else None
    with HubClient(access(hub)) as client:
        client.ask("PATCH", f"users/{quote(name, safe='')}", {"role": role.value if role else None, "password": other})
    print(json.dumps({"name": name, "changed": True}) if as_json else f"{name} is changed and has to log in again")


@users.command("remove")
def remove_user(name: UserName, hub: HubFile = None, as_json: AsJson = False) -> None:
    """Remove a person; running sessions end at once."""
    with HubClient(access(hub)) as client:
        client.ask("DELETE", f"users/{quote(name, safe='')}")
    print(json.dumps({"removed": name}) if as_json else f"{name} is removed")
