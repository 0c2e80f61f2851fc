"""Leaving a broker, also where the connection ends at the same moment."""

from __future__ import annotations

import threading
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent import mqtt

pytestmark = pytest.mark.unit


class EndsBetween(paho.Client):
    """Forgets its thread after loop_stop() looked for it twice, as a thread that ends at that moment does."""

    looks = 0

    def __init__(self) -> None:
        super().__init__(CallbackAPIVersion.VERSION2)

    @property
    def _thread(self) -> Any:
        self.looks += 1
        return threading.main_thread() if self.looks == 1 else None if self.looks > 2 else threading.Thread()

    @_thread.setter
    def _thread(self, value: Any) -> None:
        pass


def test_a_network_thread_that_ends_during_the_stop_is_no_error() -> None:
    client = EndsBetween()
    client.looks = 0
    mqtt.leave(client)
    assert client.looks > 2
