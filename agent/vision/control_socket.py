"""The Unix socket of the control API, in a file of its own: a process claims it before it loads what serves it."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from agent.errors import AlmenaError


def listening(path: Path) -> socket.socket:
    """A socket at `path`, mode 0660, that keeps callers waiting until it is served; one that a dead process left is removed.

    Raises AlmenaError when another process answers there.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o770)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _refuse_live(path)
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen()
    except OSError as error:
        listener.close()
        hint = "; choose a shorter state_dir" if len(str(path)) > 100 else ""
        raise AlmenaError(f"the control socket {path} cannot be made: {error.strerror or error}{hint}") from error
    except AlmenaError:
        listener.close()
        raise
    return listener


def _refuse_live(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT):
            raise AlmenaError(f"another vision process answers at {path}; stop it first")
