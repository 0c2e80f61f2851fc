"""Tables of commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent.logs import escaped

PIPED_WIDTH = 1000
"""Columns of an output that is no terminal: nothing that a script reads is cut off."""


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> None:
    """The rows under their heads, as they are; `nothing` where there are none."""
    table = Table(box=None)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escaped(str(cell))) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table if table.row_count else nothing, markup=False)
