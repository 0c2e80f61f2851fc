"""A fleet with everything real: CA, enrolment over HTTPS and, once it is started, mosquitto with the fleet's configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest

from agent.identity.joining import Joined, Joining
from agent.identity.protocol import Token
from agent.identity.renewal import RenewalPace
from agent.uplink.app import Pace
from provisioning import ca
from provisioning.enrolment import Enrolment
from provisioning.limits import RateLimit
from provisioning.server import EnrolServer
from provisioning.settings import BrokerSettings, Fleet, FleetSettings
from provisioning.trial import Trial
from tests.fakes.ports import free_port
from tests.fakes.uplinks import FAST

PASSPHRASE = "correct horse battery"
HASTY = Pace(FAST.connect, FAST.again, FAST.hub_answers_within_s, RenewalPace(look_s=0.05, again_s=0.05, cap_s=0.2))


class FleetSite:
    """Enrolment answers within the context; `trial` is the broker, which is not started by itself."""

    def __init__(self, folder: Path, certificate_s: float = 30 * 86400.0) -> None:
        folder.mkdir()
        port, broker = free_port(), BrokerSettings(host="127.0.0.1", port=free_port())
        settings = FleetSettings(url=f"https://127.0.0.1:{port}", broker=broker, certificate_s=certificate_s)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ca, "KDF_ROUNDS", 1000)
            self.fleet = Fleet.make(folder / "fleet", settings, PASSPHRASE, external=False)
        self.url = settings.url
        self.authority = self.fleet.authority(PASSPHRASE)
        self.trial = Trial(self.fleet.folder, self.authority, broker.port)
        self.register = self.trial.register
        self.enrolment = Enrolment(self.authority, self.register, settings, RateLimit(), again_s=1.0)
        self.server = EnrolServer(self.fleet, self.enrolment, "0.0.0.0", port)

    def token(self, name: str) -> str:
        """An invitation."""
        return str(Token(name, self.register.invite(name, 60.0), self.authority.pin))

    def join(self, config: Path, name: str = "cam-1") -> Joined:
        """A device joins."""
        config.parent.mkdir(parents=True, exist_ok=True)
        joining = self.joining(config)
        joined = joining.by_token(self.token(name))
        joining.settled()
        return joined

    def joining(self, config: Path, tell: Callable[[str], None] | None = None) -> Joining:
        """A device that is about to."""
        return Joining(self.url, config, tell or _silent)

    def __enter__(self) -> FleetSite:
        self.server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.stop()
        self.trial.__exit__(kind, error, trace)


def _silent(_text: str) -> None:
    pass
