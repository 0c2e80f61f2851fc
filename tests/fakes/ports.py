"""Ports for servers of tests."""

from __future__ import annotations

import os
import random
import socket

BELOW_THE_EPHEMERAL = range(18000, 32000)
"""Linux takes the port of an outgoing connection from 32768 on, so none of these is taken while a server is being started again."""
_OURS = BELOW_THE_EPHEMERAL[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
"""Of several workers each has ports of its own: one chooses a port a while before its server binds it."""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    while True:
        port = random.SystemRandom().choice(_OURS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
