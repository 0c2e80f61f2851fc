"""What a tuner found to be best for a model on this device, and whether it still holds."""

from __future__ import annotations

import hashlib
import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from engines.backends.base import Backend, Policy
from engines.building import built_by
from engines.calibrated import FLAVOURS, find_sound
from engines.card import ModelCard
from engines.errors import EngineError
from engines.files import replacing
from engines.registry import BACKENDS, resolve

log = logging.getLogger(__name__)

Goal = Literal["throughput", "latency", "efficiency"]

POWER_MODES = ("var/lib/nvpmodel/status", "sys/firmware/acpi/platform_profile")
GOVERNORS = "sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
DRIVERS = (
    "etc/nv_tegra_release",
    "proc/driver/nvidia/version",
    *(f"sys/module/{module}/srcversion" for module in ("i915", "xe", "intel_vpu", "amdgpu")),
    *(f"sys/class/{kind}/device/{part}" for kind in ("drm/renderD*", "accel/accel*") for part in ("vendor", "device")),
)
PACKAGES = (
    "openvino", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorflow", "tensorflow-cpu", "ai-edge-litert",
)  # fmt: skip


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
        parts = [self.backend, self.unit, self.precision, f"for {self.policy}", f"batch {self.batch}"]
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
    complete: bool = True
    """Whether every backend and precision was measured: else the next `almena tune --if-needed` measures again."""
    tuned_at: str


def fingerprint(card: ModelCard, recipe: str, engines_dir: Path, choice: Choice) -> str:
    """Digest of what a tuning with that outcome depends on: the model's file, recipe and calibrations, runtimes, drivers, device, power
    mode and the code that builds the chosen engine. A damaged calibration counts as none.

    The chosen runtime is asked about its device; the others count by their packages' versions: to load them all would take seconds.
    """
    found = (find_sound(card, recipe, engines_dir, flavour) for flavour in FLAVOURS)
    calibrations = [one[1].file_sha256 for one in found if one is not None]
    parts = [card.model_id, recipe, *calibrations, _device(choice), *(f"{name} {_version(name)}" for name in PACKAGES)]
    return hashlib.sha256("|".join([*parts, *drivers(), power_mode()]).encode()).hexdigest()[:16]


def _device(choice: Choice) -> str:
    """What the chosen backend and unit say of themselves and what builds for them, or that they are gone."""
    try:
        backend: Backend = resolve(BACKENDS, choice.backend, "backend")()
    except EngineError:
        return f"{choice.backend} is gone"
    here = choice.unit in backend.units()
    device = backend.device(choice.unit) if here else "is gone"
    return f"{backend.name} {backend.version()} {choice.unit} {device}, built by {built_by(backend)}"


def drivers(root: Path = Path("/")) -> list[str]:
    """What the system tells of processor, accelerators and their drivers."""
    found = [path.read_text(errors="replace").strip() for name in DRIVERS for path in sorted(root.glob(name)) if path.is_file()]
    cpu = root / "proc/cpuinfo"
    names = {line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith(("model name", "Model"))}
    return [*found, *sorted(names), f"{os.cpu_count()} threads"]


def power_mode(root: Path = Path("/")) -> str:
    """The power mode as the system tells it (nvpmodel, ACPI platform profile, CPU frequency governors); empty where it tells none."""
    told = [path.read_text().strip() for name in POWER_MODES if (path := root / name).is_file()]
    governors = {path.read_text().strip() for path in sorted(root.glob(GOVERNORS))}
    return " ".join([*told, *sorted(governors)])


def save(tuning: Tuning, engines_dir: Path) -> Path:
    """Keep a tuning for that model, size and goal."""
    path = _place(engines_dir, tuning.model, tuning.size, tuning.goal)
    with replacing(path) as temporary:
        temporary.write_text(tuning.model_dump_json(indent=2) + "\n")
    return path


def find(engines_dir: Path, card: ModelCard, goal: Goal) -> Tuning | None:
    """The tuning that is kept for a card's first size, whatever its fingerprint; None where there is none."""
    path = _place(engines_dir, card.model_id, card.input.sizes[0], goal)
    try:
        return Tuning.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("tuning %s cannot be read and does not count; %s again", path.name, card.advice("tune"))
        return None


def standing(card: ModelCard, recipe: str, engines_dir: Path, goal: Goal) -> tuple[Tuning | None, bool]:
    """The tuning that is kept for a card's first size, if there is one, and whether it still counts on this device."""
    tuning = find(engines_dir, card, goal)
    return tuning, tuning is not None and tuning.fingerprint == fingerprint(card, recipe, engines_dir, tuning.choice)


def outdated(tuning: Tuning) -> str:
    """What to say of a tuning that does not count any more."""
    return (
        f"it was tuned on {tuning.tuned_at[:10]} for another runtime, driver, device, power mode, model or version of Almena,"
        " which no longer counts"
    )


def kept(engines_dir: Path) -> list[Tuning]:
    """All tunings that can be read."""
    found = []
    for path in sorted((engines_dir / "tuned").glob("*.json")):
        try:
            found.append(Tuning.model_validate_json(path.read_bytes()))
        except ValidationError:
            log.warning("tuning %s cannot be read and does not count", path.name)
    return found


def _place(engines_dir: Path, model: str, size: tuple[int, int], goal: str) -> Path:
    return engines_dir / "tuned" / f"{model.replace('@', '-')}-{size[0]}x{size[1]}-{goal}.json"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
