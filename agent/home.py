"""Where what runs with nothing to set up keeps its files, and listens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from agent.errors import AlmenaError


def default_folder() -> Path:
    """Where demos keep their files: $XDG_DATA_HOME/almena, by default ~/.local/share/almena."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "almena"


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there on loopback, else any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AlmenaError("no free port on 127.0.0.1")
