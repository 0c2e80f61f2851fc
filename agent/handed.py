"""Secrets that systemd hands to a process, so that nobody else, and not even the process's own user, can read the files themselves."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import UnreadableError

SECRETS = Path("/etc/almena")
"""Whose folders the units hand over, each to its process."""


def handed(path: Path) -> Path:
    """Where a file of secrets is read: the credential that systemd made of it for this process, or the file itself.

    `LoadCredential=uplink:/etc/almena/uplink` hands /etc/almena/uplink/broker.password over as uplink_broker.password
    (systemd.exec(5)). A file elsewhere is another secret, whatever the name of its folder.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY") if path.parent.parent == SECRETS else None
    if folder and (credential := Path(folder) / f"{path.parent.name}_{path.name}").is_file():
        return credential
    return path


def secret_in(path: Path) -> str:
    """What a file of secrets says, without blanks around it. Raises UnreadableError."""
    place = handed(path)
    try:
        return place.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(place, error) from None


def require_readable(path: Path) -> Path:
    """The same path, if this process can read the file. Raises UnreadableError."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from None
    return path


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> UnreadableError:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    return UnreadableError(f"{path} cannot be read: {reason}; put the file there, or give the agent's user the right to read it")
