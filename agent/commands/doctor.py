"""`almena doctor`: what this machine has, what is wrong with it, and what to do."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.checkup import Check
from agent.checkup.report import report
from agent.settings import Settings
from agent.settings_file import located

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The settings file; almena.yaml if there is one, or the service's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    hash_password: Annotated[
        bool, typer.Option("--hash-password", help="Ask for a password, print its hash for web.login.password_hash, and leave.")
    ] = False,
) -> None:
    """Look at host, cameras, runtimes, models, settings, broker and port, and change nothing. Exit code 1 if something fails."""
    if hash_password:
        print(password_hash())
        return
    report(examine(config or located()), as_json)


def examine(config: Path | None) -> list[Check]:
    """Every check that applies, in the order of printing."""
    from agent.checkup.board import board_checks
    from agent.checkup.host import host_checks
    from agent.checkup.installed import installed_checks
    from agent.checkup.libraries import library_checks
    from agent.checkup.runtimes import runtime_checks
    from agent.checkup.service import read_settings, service_checks

    settings, verdict = read_settings(config)
    state_dir = (settings or Settings()).state_dir
    machine = [*host_checks(state_dir), *board_checks(), *library_checks(), *runtime_checks()]
    return [*machine, *installed_checks(), verdict, *(service_checks(settings) if settings else [])]


def password_hash() -> str:
    """An argon2id hash of a password from the terminal (typed twice) or, without one, the first line of standard input."""
    from agent.http.passwords import hash_password as argon2id

    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("The same again: ") != password:
            raise typer.BadParameter("the two differ", param_hint="password")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise typer.BadParameter("it is empty", param_hint="password")
    return argon2id(password)
