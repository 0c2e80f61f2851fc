"""One agent at a time in a state folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import AlmenaError, SettingsError
from engines.files import HeldError, locked


@contextmanager
def sole_agent(state_dir: Path) -> Iterator[None]:
    """While this lasts no other agent starts on the folder, which is made if it is not there. The kernel lets go when the process dies.

    Raises SettingsError if the folder cannot be used, AlmenaError if another agent has it.
    """
    path = state_dir / "run" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(path, 0o660)
    except HeldError as holder:
        raise AlmenaError(
            f"an agent runs on {state_dir} already (process {holder}): stop it first, or give this one a folder of its own"
            " (state_dir in its settings; --dir of the demo)"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"state_dir: {state_dir} cannot be used ({error.strerror}): run as the user who owns it, or set state_dir to another folder"
        ) from error
    with lock:
        yield
