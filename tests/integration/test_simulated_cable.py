"""The loop that simulated devices share, at a real broker."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fleet.simulate.network import Cable, SharedLoop
from tests.fakes.mosquitto import Mosquitto

PATIENCE_S = 30
CONNECTIONS = 1000
"""About one in two hundred was plugged in just when it was closed."""


def test_a_cable_may_be_plugged_in_while_its_connection_is_being_closed(tmp_path: Path) -> None:
    switched_after_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    loop = SharedLoop()
    loop.start()
    try:
        with Mosquitto(tmp_path) as broker:
            for number in range(CONNECTIONS):
                _connect_and_leave(loop, broker.port, f"device-{number}")
    finally:
        loop.stop()
        sys.setswitchinterval(switched_after_s)


def _connect_and_leave(loop: SharedLoop, port: int, name: str) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    cable = Cable(loop)
    cable.carry(client)
    assert connected.wait(PATIENCE_S)
    cable.pull()
    cable.plug_in()
    client.disconnect()
    for _ in range(400):
        cable.plug_in()
    cable.leave(client)
    assert client.socket() is None
