"""Printing into a pipe whose reader has gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

TALKER = """
import sys
from agent.say import say
say("first")
sys.stdin.read()
for _ in range(3):
    say("nobody reads this")
print("nor this")
print("still here", file=sys.stderr)
"""


def test_who_is_not_read_any_more_goes_on() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", TALKER], text=True, **pipes) as talker:  # type: ignore[call-overload]
        assert talker.stdout.readline() == "first\n"
        talker.stdout.close()
        talker.stdin.close()
        assert talker.stderr.read() == "still here\n"
        assert talker.wait(60) == 0
