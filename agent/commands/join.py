"""`almena join`: make this device a member of a fleet."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from agent.errors import UsageError
from agent.identity.errors import IdentityError

app = typer.Typer(add_completion=False)


@app.command()
def join(
    url: Annotated[str, typer.Argument(help="The fleet's enrolment server, as printed by `almena fleet invite`.")],
    token: Annotated[str | None, typer.Argument(help="The token, as printed there; - reads it from standard input.")] = None,
    claim: Annotated[Path | None, typer.Option(help="Instead of a token: the claim that this device got in the factory.")] = None,
    name: Annotated[str | None, typer.Option(help="With --claim: the name that this device asks for.")] = None,
    patience: Annotated[float, typer.Option(min=0, help="With --claim: seconds to wait for the operator.")] = 3600.0,
    given: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The settings file; default: almena.yaml if there is one, or the service's, or a new one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a key, get its certificate, write the settings that use both, and connect to the broker."""
    from agent.checkup.broker import broker
    from agent.identity.joining import Joining
    from agent.settings_file import to_be_changed

    if (token is None) == (claim is None) or (claim is None) != (name is None):
        raise UsageError("give a token, or --claim FILE with --name NAME: `almena fleet invite NAME` prints the whole command")
    config = to_be_changed(given)
    joining = Joining(url, config, lambda text: typer.echo(text, err=True))
    if claim is not None and name is not None:
        joined = joining.by_claim(claim, name, patience)
    else:
        joined = joining.by_token(sys.stdin.readline() if token == "-" else token or "")
    until = f"{datetime.fromtimestamp(joined.ends, timezone.utc):%Y-%m-%d}"
    if not as_json:
        print(f"{joined.name} has its certificate, until {until}; it renews itself")
        print(f"{config} is written: device, identity, mqtt")
    check = broker(joined.settings.mqtt, joined.name)
    if check.state != "ok":
        told = f"the identity is there, and the broker does not take it yet: {check.text}; {check.advice}"
        raise IdentityError(f"{told.rstrip('.')}. Then run the same again: it gets the same certificate")
    joining.settled()
    if as_json:
        print(json.dumps({"name": joined.name, "ends": until, "config": str(config), "broker": check.text}))
        return
    print(f"{check.text}. Start the agent, or start it again: `almena run --config {config}`, or `systemctl restart almena.target`")
