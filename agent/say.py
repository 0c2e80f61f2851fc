"""What a process in the foreground prints."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Print a line at once. Where nobody reads it any more, printing ends, and not what prints."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
