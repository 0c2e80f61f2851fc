"""`python -m agent.vision SETTINGS`: the vision process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from agent import logs
from agent.errors import AlmenaError, SettingsError
from agent.notify import notify
from agent.vision.control import ControlServer
from agent.vision.service import Vision

log = logging.getLogger("agent.vision")

STUCK_AFTER_S = 20.0
GIVE_UP_AFTER_S = 120.0


def main() -> int:
    """Run until SIGTERM or SIGINT. 0 after a clean stop, 2 when the settings are wrong, 1 when the outbox cannot be used
    or a stream is stuck."""
    os.umask(0o007)
    logs.setup("vision")
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    try:
        vision = Vision(Path(sys.argv[1]))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except AlmenaError as error:
        log.error("cannot start: %s", error)
        return 1
    control = ControlServer(vision)
    control.start()
    vision.start()
    notify("READY=1")
    while not stopping.wait(1.0):
        stuck_s = vision.stuck_for_s
        if stuck_s < STUCK_AFTER_S:
            notify("WATCHDOG=1")
        elif stuck_s > GIVE_UP_AFTER_S:
            log.error("a stream has made no progress for %.0f s; the process ends, to be started again", stuck_s)
            os._exit(1)  # a thread that is stuck cannot be joined
    notify("STOPPING=1")
    control.stop()
    vision.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
