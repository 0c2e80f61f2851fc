"""`python -m fleet.bench.bare PORT CLIENT COUNT`: a paho subscriber that only counts.

It keeps a session at the broker; with COUNT 0 it opens that session and leaves. Else it prints the seconds from the first message to the
last, and how many there were.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt import leave

UNDER_WAY = 1000
PATIENCE_S = 300.0


def main(port: int, name: str, count: int) -> None:
    """See the module."""
    seen, first, last = 0, 0.0, 0.0
    done, subscribed = threading.Event(), threading.Event()

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        nonlocal seen, first, last
        last = time.perf_counter()
        first = first or last
        seen += bool(message.payload)
        if seen == count:
            done.set()

    def on_connect(client: paho.Client, *_: Any) -> None:
        client.subscribe("almena/1/+/up/#", 1)

    client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = on_message
    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.set()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval, properties.ReceiveMaximum = 3600, UNDER_WAY
    client.connect("127.0.0.1", port, 60, clean_start=False, properties=properties)
    client.loop_start()
    (done if count else subscribed).wait(PATIENCE_S)
    leave(client)
    print(json.dumps({"seconds": last - first, "count": seen}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
