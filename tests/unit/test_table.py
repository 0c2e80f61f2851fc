"""Tables of commands."""

from __future__ import annotations

import pytest

from agent.commands.table import print_table

pytestmark = pytest.mark.unit


def test_cells_are_shown_as_they_are_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "about"), [("Ada [/b]", "[red]form"), ("x" * 300, "a\x1b[2J\nb"), (7, None)], "nobody")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["Ada", "[/b]", "[red]form"]
    assert lines[2].split() == ["x" * 300, "a\\u001b[2J\\nb"]
    assert lines[3].split() == ["7", "None"]


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), (), "nobody [yet]")
    assert capsys.readouterr().out == "nobody [yet]\n"
