"""An embedded MQTT 3.1.1 broker on loopback for demos and single machines. It keeps nothing: use mosquitto in the field."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import Any

from agent import logs

logger = logging.getLogger("agent.broker")

MQTT_3_1_1 = 4
"""Its protocol level."""

_NOISY = ("amqtt", "transitions", "asyncio")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, which is exit code 0; 1 if the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m agent.broker", description=__doc__)
    parser.add_argument("--port", type=int, default=1883, help="TCP port on 127.0.0.1 (default: %(default)s)")
    options = parser.parse_args(arguments)
    os.umask(0o007)
    logs.setup("broker")
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return asyncio.run(_serve(options.port))


async def _serve(port: int) -> int:
    from amqtt.broker import Broker
    from amqtt.errors import BrokerError

    _answer_other_versions()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    try:
        await broker.start()
    except BrokerError as error:
        logger.error("cannot listen on 127.0.0.1:%d: %s; choose another port or stop the other broker", port, error)
        return 1
    await stop.wait()
    await broker.shutdown()
    return 0


def _answer_other_versions() -> None:
    """amqtt reads all of CONNECT as MQTT 3.1.1 before it looks at the version, and waits for bytes that MQTT 5 does not send.

    Here a CONNECT of another version ends after its level, so that the refusal (MQTT 3.1.1, clause 3.1.2.2) goes out at once.
    """
    from amqtt.mqtt import connect

    class Header(connect.ConnectVariableHeader):  # type: ignore[misc]
        @classmethod
        async def from_stream(cls, reader: Any, fixed_header: Any) -> Any:
            header = await super().from_stream(reader, fixed_header)
            if header.proto_level != MQTT_3_1_1:
                header.flags = 0
            return header

    class Payload(connect.ConnectPayload):  # type: ignore[misc]
        @classmethod
        async def from_stream(cls, reader: Any, fixed_header: Any, variable_header: Any) -> Any:
            if variable_header.proto_level == MQTT_3_1_1:
                return await super().from_stream(reader, fixed_header, variable_header)
            payload = cls()
            payload.client_id = ""
            return payload

    connect.ConnectPacket.VARIABLE_HEADER = Header
    connect.ConnectPacket.PAYLOAD = Payload


if __name__ == "__main__":
    sys.exit(main())
