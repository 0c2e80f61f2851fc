"""What is simulated: how many devices, where, how busy, and which of them misbehave when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from agent.config import Config
from agent.errors import SettingsError
from agent.settings import MEBIBYTE, MqttSettings
from agent.wire.payloads import Name

Kind = Literal["off", "offline", "reconnect", "clock", "duplicates", "gaps", "storm", "hot", "slow", "frozen"]


def _unquoted(given: Any) -> Any:
    """YAML takes a bare `off` for false."""
    return "off" if given is False else given


class Fault(Config):
    """One way to misbehave."""

    fault: Annotated[Kind, BeforeValidator(_unquoted)] = Field(
        description="off: as if its power were cut, and nobody tells the broker; offline: gone without a goodbye; reconnect: a new"
        " session at once; clock: wrong, and known to be unsynchronised until the end; duplicates: rows are sent twice; gaps: events"
        " that take a number and are declared as lost; storm: a burst of events; hot: 96 °C and throttled; slow: a tenth of the frame rate;"
        " frozen: the camera gives the same picture."
    )
    for_s: float = Field(30.0, gt=0, le=86400, description="How long; reconnect and storm happen once.")
    by_s: float | None = Field(None, description="clock: so far off; default: it says 1970.")
    share: float = Field(0.1, gt=0, le=1, description="duplicates, gaps: of the rows, of the events.")
    count: int = Field(1000, ge=1, le=1_000_000, description="storm: so many events.")


class Step(Fault):
    """When whom."""

    at_s: float = Field(0.0, ge=0, description="After the start; not before its devices have joined.")
    every_s: float | None = Field(None, gt=0, description="Again and again.")
    devices: tuple[str, ...] = Field((), description="Names; default: all.")


class Scenario(Config):
    """Settings of `almena simulate`."""

    mqtt: MqttSettings = MqttSettings(delivery="hub", keepalive_s=30)
    state_dir: Path = Field(Path("almena-simulated"), description="The devices' outboxes: 1.2 MB on the disk for each device.")
    sites: dict[Name, int] = Field({"sim": 3}, description="Site to number of devices; they are called <site>-1, <site>-2 …")
    telemetry_s: float = Field(10.0, ge=0.1, le=3600, description="Between two samples of a device.")
    events_per_minute: float = Field(6.0, ge=0, le=60_000, description="Of each device, at random moments.")
    event_bytes: int = Field(
        4 * MEBIBYTE, ge=MEBIBYTE, description="Unsent events beyond this are evicted, oldest first, and declared as lost."
    )
    start_per_second: float = Field(50.0, gt=0, description="Devices that connect for the first time.")
    haste: float = Field(1.0, ge=1, description="Pauses before another try are so many times shorter than in the field.")
    run_s: float | None = Field(None, gt=0, description="Default: until Ctrl-C.")
    seed: int = 1
    faults: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Scenario:
        unknown = {name for step in self.faults for name in step.devices} - set(self.names())
        if unknown:
            raise ValueError(f"faults name devices that are not simulated: {', '.join(sorted(unknown))}")
        return self

    def names(self) -> list[str]:
        """Of all devices."""
        return [f"{site}-{number}" for site, count in self.sites.items() for number in range(1, count + 1)]


def load(path: Path | None, given: dict[str, Any]) -> Scenario:
    """From a YAML file, if there is one, and what was `given` besides, which goes before. Raises SettingsError."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: a scenario is a mapping; see docs/hub.md")
    mqtt = {"delivery": "hub", **(raw.get("mqtt") or {}), **given.pop("mqtt", {})}
    try:
        return Scenario.model_validate({**raw, **given, "mqtt": mqtt})
    except ValidationError as error:
        lines = [f"{path or 'options'}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
        raise SettingsError("\n".join(lines)) from None
