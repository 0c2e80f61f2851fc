"""What ends a process does so whatever its main thread holds."""

from __future__ import annotations

import signal
import threading

import pytest

from agent.signals import at_stop

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_for_a_lock_without_holding_the_main_thread_up(number: signal.Signals) -> None:
    lock, ended = threading.Lock(), threading.Event()

    def end() -> None:
        if lock.acquire(timeout=60):
            ended.set()

    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        at_stop(end)
        with lock:
            signal.raise_signal(number)
        assert ended.wait(30)
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
