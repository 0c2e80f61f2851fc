"""The real page over a real outbox and a real control socket; only the vision behind the socket is small."""

from __future__ import annotations

import ssl
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import httpx

from agent.dicom_settings import DicomSettings
from agent.http.site import PageServer
from agent.outbox import Outbox
from agent.settings import DeviceSettings, OutboxSettings, Settings, WebSettings
from agent.uplink.web.app import serve
from agent.uplink.web.context import WebContext
from agent.vision.control import ControlServer
from tests.fakes.small_uplink import SmallStatus, telemetry
from tests.fakes.small_vision import SmallVision


class SmallSite(AbstractContextManager["SmallSite"]):
    """Serves on a free loopback port while it is entered. `stop_vision` and `start_vision` end and restart the vision process."""

    def __init__(
        self,
        state_dir: Path,
        web: WebSettings | None = None,
        streams: tuple[str, ...] = ("door",),
        outbox: OutboxSettings | None = None,
        dicom: DicomSettings | None = None,
    ) -> None:
        self._streams = streams
        self._stack = ExitStack()
        self._vision_stack = ExitStack()
        self.settings = Settings(
            state_dir=state_dir,
            device=DeviceSettings(name="entrance"),
            web=web or WebSettings(port=0),
            outbox=outbox or OutboxSettings(),
            dicom=dicom,
        )
        self.status = SmallStatus()
        self.vision: SmallVision
        self.outbox: Outbox
        self.server: PageServer
        self.client: httpx.Client

    def __enter__(self) -> SmallSite:
        self.outbox = self._stack.enter_context(Outbox.open(self.settings.outbox_dir, self.settings.device.name, self.settings.outbox))
        self.start_vision()
        self._stack.callback(self.stop_vision)
        self.server = serve(WebContext(self.settings, self.outbox, self.status, telemetry))
        self._stack.callback(self.server.stop)
        tls = self.settings.web.tls
        trust = ssl.create_default_context(cafile=str(tls.cert_file.with_name("ca.pem"))) if tls else False
        self.client = self._stack.enter_context(httpx.Client(base_url=self.server.url, verify=trust, timeout=60))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def start_vision(self) -> None:
        """Start vision and its control socket."""
        self.vision = self._vision_stack.enter_context(SmallVision(self.settings.state_dir, self._streams, self.settings.dicom))
        control = ControlServer(self.vision)
        control.start()
        self._vision_stack.callback(control.stop)

    def stop_vision(self) -> None:
        """As if the vision process had ended."""
        self._vision_stack.close()
