"""What a tuner found to be best for a model on this device, and whether it still holds."""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from engines.backends.base import Policy
from engines.files import replacing

log = logging.getLogger(__name__)

Goal = Literal["throughput", "latency", "efficiency"]

POWER_MODES = (Path("/var/lib/nvpmodel/status"), Path("/sys/firmware/acpi/platform_profile"))
GOVERNORS = Path("/sys/devices/system/cpu/cpufreq")


class Choice(BaseModel):
    """One way to run a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    unit: str
    precision: str
    policy: Policy
    threads: int | None = None
    streams: int | None = None
    batch: int = 1

    def __str__(self) -> str:
        parts = [self.backend, self.unit, self.precision, f"built for {self.policy}", f"batch {self.batch}"]
        parts += [f"{count} {what}" for count, what in ((self.threads, "threads"), (self.streams, "streams")) if count]
        return ", ".join(parts)


class Tuning(BaseModel):
    """The winner, why it won, and what it is bound to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    size: tuple[int, int]
    """Width, height."""
    goal: Goal
    fingerprint: str
    choice: Choice
    why: str
    """One sentence with figures."""
    tuned_at: str


def fingerprint(recipe: str, devices: list[str]) -> str:
    """Digest of what a tuning depends on: the model's recipe and calibrations, runtimes, devices and drivers, power mode.

    devices: what each backend and unit here says of itself.
    """
    parts = [
        recipe,
        *sorted(devices),
        *(f"{name} {_version(name)}" for name in ("openvino", "onnxruntime", "onnxruntime-gpu")),
        power_mode(),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def power_mode() -> str:
    """The power mode as the system tells it (nvpmodel, ACPI platform profile, CPU frequency governors); empty where it tells none."""
    told = [path.read_text().strip() for path in POWER_MODES if path.is_file()]
    governors = {path.read_text().strip() for path in sorted(GOVERNORS.glob("policy*/scaling_governor"))}
    return " ".join([*told, *sorted(governors)])


def save(tuning: Tuning, engines_dir: Path) -> Path:
    """Keep a tuning for that model, size and goal."""
    path = _place(engines_dir, tuning.model, tuning.size, tuning.goal)
    with replacing(path) as temporary:
        temporary.write_text(tuning.model_dump_json(indent=2) + "\n")
    return path


def find(engines_dir: Path, model: str, size: tuple[int, int], goal: Goal) -> Tuning | None:
    """The tuning that is kept, whatever its fingerprint; None where there is none."""
    path = _place(engines_dir, model, size, goal)
    try:
        return Tuning.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("tuning %s cannot be read and does not count; run `almena tune %s` again", path.name, model.partition("@")[0])
        return None


def _place(engines_dir: Path, model: str, size: tuple[int, int], goal: str) -> Path:
    return engines_dir / "tuned" / f"{model.replace('@', '-')}-{size[0]}x{size[1]}-{goal}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
