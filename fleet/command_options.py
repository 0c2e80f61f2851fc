"""Options that commands with a hub have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.client import FILE

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HubFile = Annotated[Path | None, typer.Option("--hub", envvar=FILE, help="A 0600 file with `url:` and `key:` of the hub.")]
Since = Annotated[str | None, typer.Option(help="From then on: 30m, 2h, 7d, or a date and time (ISO 8601; local unless it says).")]
Until = Annotated[str | None, typer.Option(help="Up to then, in the same forms.")]
PasswordFile = Annotated[Path | None, typer.Option("--password-file", help="Holds the password; without it, type it.")]


def password(file: Path | None) -> str:
    """A new password, from a file or typed twice; never from the command line, where others could read it."""
    from agent.handed import secret_in

    return secret_in(file) if file else str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
