"""What every MQTT client of Almena does alike, around paho."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import paho.mqtt.client as paho


def leave(client: paho.Client) -> None:
    """Disconnect in order and wait for the network thread.

    A lost connection may end that thread by itself meanwhile: paho 2.1 then forgets it between its look and its join, and raises an
    AttributeError.
    """
    client.disconnect()
    with suppress(AttributeError):
        client.loop_stop()


class Network(Protocol):
    """What carries the traffic of a client from its CONNECT on."""

    def carry(self, client: paho.Client) -> None:
        """From now on; returns at once."""

    def leave(self, client: paho.Client) -> None:
        """Disconnect in order; nothing is called back afterwards."""


class OwnThread:
    """A thread for each client."""

    def carry(self, client: paho.Client) -> None:
        """See Network."""
        client.loop_start()

    def leave(self, client: paho.Client) -> None:
        """See Network."""
        leave(client)
