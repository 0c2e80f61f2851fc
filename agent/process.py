"""What the main functions of processes share."""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import logs
from agent.errors import AlmenaError, SettingsError
from agent.signals import at_stop

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Options of mallopt(3)."""
KEPT_BYTES = 32 * 1024 * 1024


def begin(name: str, description: str | None) -> tuple[Path, threading.Event]:
    """The settings file that the command line names, and an event that SIGTERM and SIGINT set. Logging is set up from now on."""
    parser = argparse.ArgumentParser(prog=f"python -m agent.{name}", description=description)
    parser.add_argument("config", type=Path, help="the settings file")
    config: Path = parser.parse_args().config
    os.umask(0o007)  # state is for the owner and the group
    logs.setup(name)
    stopping = threading.Event()
    at_stop(stopping.set)
    return config, stopping


@contextmanager
def starting(young: int = 700) -> Iterator[None]:
    """Without garbage collection: what is imported and made at a start stays, and to look through it over and over takes a tenth of it.

    After it so many `young` objects are made before they are looked at: where each message makes some that live for one batch, more.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(young, *gc.get_threshold()[1:])
        gc.enable()


def keep_freed_memory() -> None:
    """Have the allocator of glibc keep up to KEPT_BYTES that were freed (in each of its arenas) for what comes next. Otherwise it gives
    them back, and to fetch and clear the pages anew costs more than to encrypt the megabytes that go into them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(option, KEPT_BYTES)


def end_with_any_thread(stopping: threading.Event) -> None:
    """From now on the process ends with code 1 when a thread dies of an error that nobody caught, to be started again: without that
    thread it would go on as if all were well. While it stops, such an error is only logged."""
    tell = threading.excepthook

    def end(args: threading.ExceptHookArgs) -> None:
        tell(args)
        if not stopping.is_set():
            os._exit(1)

    threading.excepthook = end


def refused(error: AlmenaError) -> int:
    """Say why the process cannot start; returns its exit code: 2 for wrong settings, 1 for the rest."""
    if isinstance(error, SettingsError):
        print(error, file=sys.stderr)
        return 2
    log.error("cannot start: %s", error)
    return 1
