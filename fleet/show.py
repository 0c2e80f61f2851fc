"""Tables and sentences of `almena fleet` for people."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent import logs
from agent.clock import date_of

STYLE = {"online": "green", "stale": "yellow", "offline": "red", "firing": "red", "failed": "red", "expired": "yellow", "done": "green"}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], nothing: str) -> None:
    """Print a table; whatever devices have sent shows as text and controls nothing."""
    shown = [[_cell(value) for value in row] for row in rows]
    if not shown:
        print(nothing)
        return
    found = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in shown:
        found.add_row(*row)
    console = Console()
    if not console.is_terminal:  # for other programs: one row a line, however wide
        console.width = 1000
    console.print(found)


def facts(values: Mapping[str, Any]) -> None:
    """Print names and values below each other."""
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name.ljust(width)}  {_text(value)}")


def ago(at: float | None) -> str:
    """How long since."""
    if at is None:
        return "never"
    seconds = max(0.0, time.time() - at)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def moment(at: float | None) -> str:
    """Local date and time."""
    return "-" if at is None else date_of(at).strftime("%Y-%m-%d %H:%M:%S")


def figure(figures: Mapping[str, float] | None, name: str, form: str = "{:.0f}") -> str:
    """One metric, or a hyphen."""
    value = (figures or {}).get(name)
    return "-" if value is None else form.format(value)


def _cell(value: Any) -> Text:
    text = _text(value)
    return Text(text, STYLE.get(text, ""))


def _text(value: Any) -> str:
    return logs.escaped("-" if value is None or value == "" else str(value))
