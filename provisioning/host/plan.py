"""What is to be done, said before it is done, or instead of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from agent.errors import AlmenaError


class HostError(AlmenaError):
    """Something could not be done on this host. The message says what to do."""


class Plan:
    """Steps. With `dry` they are only told. `changed`: whether any step was needed."""

    def __init__(self, *, dry: bool = False, say: Callable[[str], object] = print) -> None:
        self.dry = dry
        self.changed = False
        self._say = say

    def step(self, what: str, needed: bool, action: Callable[[], object]) -> None:
        """Do `action` where it is needed. `what` is an order, such as "write /etc/x". Raises HostError."""
        if not needed:
            return
        self.changed = True
        self.say(f"would {what}" if self.dry else what)
        if self.dry:
            return
        try:
            action()
        except OSError as error:
            advice = "is the disk full, or mounted read-only? What was done so far stays; the same command again goes on from there"
            raise HostError(f"could not {what}: {error.strerror} ({error.filename}); {advice}") from error

    def say(self, text: str) -> None:
        """A line for who watches, if anybody still does: a connection that drops stops nothing."""
        with suppress(OSError):
            self._say(text)


def run(command: Sequence[str], *, timeout_s: float = 120.0) -> str:
    """What a program prints. Raises HostError with the last of what it said if it fails, is missing, or does not end."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise HostError(f"{command[0]} is not installed: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{' '.join(command)} did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        said = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise HostError(f"{' '.join(command)} failed with code {done.returncode}:\n  {said}")
    return done.stdout
