"""Live detections at QoS 0, from the vision process's socket to the broker."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from agent.settings import Settings
from agent.uplink.live import LiveDetections
from tests.fakes.fleet import peer
from tests.fakes.mosquitto import Mosquitto
from tests.waiting import wait_until

BOX = {"box": [1.0, 2.0, 3.0, 4.0], "label": "Ada 0.9", "score": 0.9, "known": True, "track": "t1"}


class Vision(socketserver.ThreadingUnixStreamServer):
    """Answers as the control API does."""

    daemon_threads = True
    seen: list[dict[str, Any]] = [BOX]


class Handler(BaseHTTPRequestHandler):
    """Two paths."""

    def do_GET(self) -> None:
        streams = [{"stream": "door", "width": 640, "height": 360, "last_frame_at": 1.7e9}]
        body = json.dumps(Vision.seen if self.path == "/streams/door/annotations" else streams).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_live_detections_and_their_end(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "streams": [{"name": "door", "source": {}}]})
    settings.control_socket.parent.mkdir(parents=True)
    with (
        Mosquitto(tmp_path / "broker") as broker,
        peer(broker.port, "almena/1/almena/up/live/+", name="hub") as hub,
        peer(broker.port, name="device") as device,
        Vision(str(settings.control_socket), Handler) as vision,
    ):

        def publish(topic: str, payload: bytes, *, qos: int = 1, **_: object) -> bool:
            assert qos == 0
            device.client.publish(topic, payload, qos)
            return True

        threading.Thread(target=vision.serve_forever, args=(0.05,), daemon=True).start()
        live = LiveDetections(settings, 20, publish)
        live.start()
        first = wait_until(lambda: hub.heard, 10, "live detections")[0]
        assert first.topic == "almena/1/almena/up/live/door"
        assert (first.data["width"], first.data["height"], first.data["captured_at"]) == (640, 360, 1.7e9)
        assert first.data["detections"] == [BOX]
        Vision.seen = []
        wait_until(lambda: hub.heard[-1].data["detections"] == [], 10, "the end of it")
        live.stop()
        assert len([each for each in hub.heard if not each.data["detections"]]) == 1
        vision.shutdown()
