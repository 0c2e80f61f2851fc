"""One agent at a time in a state folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import AlmenaError, SettingsError


@contextmanager
def sole_agent(state_dir: Path) -> Iterator[None]:
    """While this lasts no other agent starts on the folder, which is made if it is not there. The kernel lets go when the process dies.

    Raises SettingsError if the folder cannot be used, AlmenaError if another agent has it.
    """
    path = state_dir / "run" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    except OSError as error:
        raise SettingsError(
            f"state_dir: {state_dir} cannot be used ({error.strerror}): run as the user who owns it, or set state_dir to another folder"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode().strip()
            raise AlmenaError(
                f"an agent runs on {state_dir} already (process {holder}): stop it first, or give this one a folder of its own"
                " (state_dir in its settings; --dir of the demo)"
            ) from None
        os.pwrite(lock, f"{os.getpid():<20}".encode(), 0)  # always as long, so that it needs no space on a full disk
        yield
    finally:
        os.close(lock)
