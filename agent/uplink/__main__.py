"""`python -m agent.uplink SETTINGS`: the process that owns identity, network, telemetry, commands and the local page."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import AlmenaError
from agent.notify import notify
from agent.process import begin, end_with_any_thread, refused, starting

if TYPE_CHECKING:
    from agent.uplink.app import Uplink

log = logging.getLogger("agent.uplink")

STOPS_WITHIN_S = 3.0
LOOK_EVERY_S = 1.0
GIVE_UP_AFTER_S = 60.0


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit code 2: the settings are wrong; 1: it cannot start, or is stuck and is to be started again."""
    config, stopping = begin("uplink", __doc__)
    end_with_any_thread(stopping)
    try:
        with starting():
            uplink = _started(config)
    except AlmenaError as error:
        return refused(error)
    notify("READY=1")
    code = _stay(uplink, stopping)
    notify("STOPPING=1")
    deadline = threading.Timer(STOPS_WITHIN_S, os._exit, (code,))
    deadline.daemon = True
    deadline.start()
    uplink.stop()
    deadline.cancel()
    return code


def _started(config: Path) -> Uplink:
    """At work. Raises AlmenaError."""
    from agent.uplink.app import Uplink

    uplink = Uplink(config)
    uplink.start()
    return uplink


def _stay(uplink: Uplink, stopping: threading.Event) -> int:
    """Look after it; returns the exit code."""
    silent = 0
    while not stopping.wait(LOOK_EVERY_S):
        if uplink.look():
            silent = 0
            notify("WATCHDOG=1")
            continue
        silent += 1  # looks, not seconds: after a pause of the whole machine nothing is stuck
        if silent * LOOK_EVERY_S > GIVE_UP_AFTER_S:
            log.error("no progress for %.0f s; the process ends, to be started again", GIVE_UP_AFTER_S)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
