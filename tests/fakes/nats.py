"""A cluster of real NATS servers that speak MQTT 3.1.1, with JetStream: what one of them has acknowledged lies on most of them."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

from tests.fakes.ports import free_port
from tests.waiting import wait_until

CONFIGURATION = """
server_name: node-{number}
listen: "127.0.0.1:{client}"
jetstream {{ store_dir: "{folder}", max_memory_store: 64MB, max_file_store: 512MB }}
cluster {{ name: almena, listen: "127.0.0.1:{cluster}", routes: [{routes}] }}
mqtt {{ listen: "127.0.0.1:{mqtt}", ack_wait: "5s", max_ack_pending: 1000 }}
"""


class Node:
    """One server."""

    def __init__(self, folder: Path, number: int, cluster: list[int]) -> None:
        self.port = free_port()
        self.log = folder / f"node-{number}.log"
        self._configuration = folder / f"node-{number}.conf"
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in cluster)
        own = {"number": number, "client": free_port(), "cluster": cluster[number], "routes": routes, "mqtt": self.port}
        self._configuration.write_text(CONFIGURATION.format(**own, folder=folder / f"store-{number}"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Without waiting for the others."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(["nats-server", "-c", str(self._configuration)], stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None


class NatsCluster:
    """Three nodes; within, each takes MQTT."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        cluster = [free_port() for _ in range(3)]
        self.nodes = [Node(folder, number, cluster) for number in range(3)]

    def __enter__(self) -> NatsCluster:
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.nodes):
            wait_until(lambda: _takes_mqtt(node.port, number), 60, f"MQTT at node {number}")  # noqa: B023 - called within the round
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.stop()


def _takes_mqtt(port: int, number: int) -> bool:
    """Whether it answers a CONNECT; a cluster that has no leader yet does not."""
    name = f"probe-{number}".encode()
    said = b"\x00\x04MQTT\x04\x02\x00\x1e" + len(name).to_bytes(2, "big") + name
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
            connection.sendall(bytes((0x10, len(said))) + said)
            return connection.recv(4) == b"\x20\x02\x00\x00"
    except OSError:
        return False
