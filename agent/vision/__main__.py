"""`python -m agent.vision SETTINGS`: the vision process."""

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
    from agent.vision.control import ControlServer
    from agent.vision.service import Vision

log = logging.getLogger("agent.vision")

STUCK_AFTER_S = 20.0
GIVE_UP_AFTER_S = 120.0
STOPS_WITHIN_S = 7.0


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit code 2: the settings are wrong; 1: it cannot start, or a stream is stuck."""
    config, stopping = begin("vision", __doc__)
    end_with_any_thread(stopping)
    try:
        with starting():
            vision, control = _started(config)
    except AlmenaError as error:
        return refused(error)
    notify("READY=1")
    while not stopping.wait(1.0):
        stuck_s = vision.stuck_for_s
        if stuck_s < STUCK_AFTER_S:
            notify("WATCHDOG=1")
        elif stuck_s > GIVE_UP_AFTER_S:
            log.error("no progress in a stream, its models or storing for %.0f s; the process ends, to be started again", stuck_s)
            os._exit(1)  # a thread that is stuck cannot be joined
    notify("STOPPING=1")
    deadline = threading.Timer(STOPS_WITHIN_S, os._exit, (0,))  # a thread that loads a model cannot be joined
    deadline.daemon = True
    deadline.start()
    control.stop()
    vision.stop()
    return 0


def _started(config: Path) -> tuple[Vision, ControlServer]:
    """Both at work. Raises AlmenaError."""
    from agent.vision.control_socket import listening
    from agent.vision.service import Vision

    vision = Vision(config)
    listener = listening(vision.settings.control_socket)
    vision.start()
    from agent.vision.control import ControlServer  # the streams load their models meanwhile

    control = ControlServer(vision, listener)
    control.start()
    return vision, control


if __name__ == "__main__":
    sys.exit(main())
