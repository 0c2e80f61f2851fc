"""`python -m agent.uplink CONFIG.yaml`: the process that owns identity, network, telemetry, commands and the local page."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from agent import logs, settings
from agent.errors import AlmenaError, SettingsError
from agent.notify import notify
from agent.uplink.app import Uplink

log = logging.getLogger("agent.uplink")

STOPS_WITHIN_S = 3.0
LOOK_EVERY_S = 1.0
GIVE_UP_AFTER_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Exit code 2: the settings are wrong; 1: it cannot start, or is stuck and is to be started again."""
    parser = argparse.ArgumentParser(prog="python -m agent.uplink", description=__doc__)
    parser.add_argument("config", type=Path, help="the settings file")
    options = parser.parse_args(arguments)
    os.umask(0o007)
    logs.setup("uplink")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        uplink = Uplink(settings.load(options.config))
        uplink.start()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except AlmenaError as error:
        log.error("%s", error)
        return 1
    notify("READY=1")
    code = _stay(uplink, stopping)
    notify("STOPPING=1")
    deadline = threading.Timer(STOPS_WITHIN_S, os._exit, (code,))
    deadline.daemon = True
    deadline.start()
    uplink.stop()
    deadline.cancel()
    return code


def _stay(uplink: Uplink, stopping: threading.Event) -> int:
    """Look after it; returns the exit code."""
    progress = time.monotonic()
    while not stopping.wait(LOOK_EVERY_S):
        if uplink.look():
            progress = time.monotonic()
            notify("WATCHDOG=1")
        elif time.monotonic() - progress > GIVE_UP_AFTER_S:
            log.error("no progress for %.0f s; the process ends, to be started again", GIVE_UP_AFTER_S)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
