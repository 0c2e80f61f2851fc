"""`almena doctor`: what this machine has, what is wrong with it, and what to do."""

from __future__ import annotations

import getpass
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agent.checkup import Check
from agent.settings import Settings

app = typer.Typer(add_completion=False)

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
DEFAULT = Path("almena.yaml")


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The settings file; almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    hash_password: Annotated[
        bool, typer.Option("--hash-password", help="Ask for a password, print its hash for web.login.password_hash, and leave.")
    ] = False,
) -> None:
    """Look at host, cameras, runtimes, models, settings, broker and port, and change nothing. Exit code 1 if something fails."""
    if hash_password:
        print(password_hash())
        return
    checks = examine(config or (DEFAULT if DEFAULT.is_file() else None))
    healthy = all(check.state != "fail" for check in checks)
    if as_json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks)
    raise typer.Exit(0 if healthy else 1)


def examine(config: Path | None) -> list[Check]:
    """Every check that applies, in the order of printing."""
    from agent.checkup.host import host_checks
    from agent.checkup.libraries import library_checks
    from agent.checkup.runtimes import runtime_checks
    from agent.checkup.service import read_settings, service_checks

    settings, verdict = read_settings(config)
    state_dir = (settings or Settings()).state_dir
    return [*host_checks(state_dir), *library_checks(), *runtime_checks(), verdict, *(service_checks(settings) if settings else [])]


def password_hash() -> str:
    """An argon2id hash of a password from the terminal (typed twice) or, without one, the first line of standard input."""
    from agent.uplink.web.auth import hash_password as argon2id

    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("The same again: ") != password:
            raise typer.BadParameter("the two differ", param_hint="password")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise typer.BadParameter("it is empty", param_hint="password")
    return argon2id(password)


def _print(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{MARKS[check.state]}  {check.name:<{width}}  {check.text}")
        if check.advice:
            print(f"{'':{width + 8}}-> {check.advice}")
    failed, warned = (sum(check.state == state for check in checks) for state in ("fail", "warn"))
    print(f"\n{failed} failed, {warned} to look at, {len(checks) - failed - warned} well")
