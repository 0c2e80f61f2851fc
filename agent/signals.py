"""A stop that SIGTERM or SIGINT asks for."""

from __future__ import annotations

import _thread
import signal
from collections.abc import Callable


def at_stop(end: Callable[[], object]) -> None:
    """Have SIGTERM and SIGINT call `end`, in a thread of its own.

    A handler runs in the middle of whatever the main thread does. Where that holds a lock which `end` needs, such as the one within an
    Event that it waits for, `end` would wait for ever.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _thread.start_new_thread(end, ()))
