"""`almena renew`: renew the certificate now."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from agent import settings as settings_module
from agent.errors import UsageError
from agent.identity.keys import Pair

app = typer.Typer(add_completion=False)


@app.command()
def renew(
    given: Annotated[
        Path | None, typer.Option("--config", "-c", help="The settings file; default: almena.yaml if there is one, or the service's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Get a certificate with a new key now. A running agent does that by itself when two thirds of the time are over."""
    from agent.identity.folder import IdentityFolder
    from agent.identity.protocol import Waiting
    from agent.identity.renewal import renew as ask
    from agent.settings_file import to_be_changed

    config = to_be_changed(given)
    settings = settings_module.load(config)
    if settings.identity is None:
        raise UsageError(f"{config} has no section `identity`: `almena join URL TOKEN` gets this device one")
    folder = IdentityFolder(settings.identity_dir)
    answer = ask(settings.identity.url, folder, folder.pair())
    folder.hand_over()
    if as_json:
        print(json.dumps({"waiting": answer.waiting} if isinstance(answer, Waiting) else {"ends": _day(answer)}))
        return
    if isinstance(answer, Waiting):
        print(f"the operator is asked ({answer.reason}): almena fleet approve {answer.waiting}; then give this command again")
        return
    print(f"renewed until {_day(answer)}; the agent takes it into use at its next connection")


def _day(pair: Pair) -> str:
    return f"{datetime.fromtimestamp(pair.ends, timezone.utc):%Y-%m-%d}"
