"""What the doctors print."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import NoReturn

import typer

from agent.checkup import Check

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def report(checks: list[Check], as_json: bool) -> NoReturn:
    """Print them and end: exit code 1 if one fails."""
    healthy = all(check.state != "fail" for check in checks)
    if as_json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks)
    raise typer.Exit(0 if healthy else 1)


def _print(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{MARKS[check.state]}  {check.name:<{width}}  {check.text}")
        if check.advice:
            print(f"{'':{width + 8}}-> {check.advice}")
    failed, warned = (sum(check.state == state for check in checks) for state in ("fail", "warn"))
    print(f"\n{failed} failed, {warned} to look at, {len(checks) - failed - warned} well")
