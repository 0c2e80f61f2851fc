"""Releases in an image, of wheels that hold next to nothing, and a stand-in for the systemd that runs it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.host import plan, releases, service, trial
from provisioning.host.places import Places, own_texts
from provisioning.host.plan import Plan
from provisioning.host.releases import Recipe

SERVICES = ("almena-uplink.service", "almena-vision.service", "almena-dicom.service")
EXTRA = "[Service]\nType=notify\nExecStart=/bin/true\n[Install]\nWantedBy=almena.target\n"
WELL = {"ActiveState": "active", "NRestarts": "0", "Result": "success", "InvocationID": "a", "ConditionResult": "yes"}


def a_recipe(folder: Path, version: str, text: str = "") -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"almena-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("agent/__init__.py", f"__version__ = {version!r}{text}")
    return Recipe(wheel, ("cpu",))


def made(places: Places, recipe: Recipe, **texts: str) -> str:
    """A release with units of its own, and an uplink that says which."""
    folder = places.releases / recipe.name
    own = folder / "lib/python3.11/site-packages" / releases.TEXTS
    own.mkdir(parents=True)
    for name, text in own_texts().items():
        (own / name).write_text(text.replace("Almena: uplink", f"Almena: uplink of {recipe.name}"))
    for name, text in texts.items():
        (own / f"almena-{name}.service").write_text(text)
    (folder / releases.RECORD).write_text("{}")
    return recipe.name


def two_releases(folder: Path) -> Places:
    """Two releases, of which the second runs; it has one unit more."""
    places = Places(folder / "image")
    old = made(places, a_recipe(folder / "wheels", "1.0"))
    new = made(places, a_recipe(folder / "wheels", "1.1"), extra=EXTRA)
    trial.switch(places, old, None, Plan(say=lambda _: None))
    trial.switch(places, new, old, Plan(say=lambda _: None))
    releases.point(places.previous, old)
    return places


def units_of(places: Places) -> tuple[str, bool, bool]:
    """Whose uplink unit is there, whether the second release's own is, and whether that one starts at boot."""
    found = re.search(r"^Description=Almena: uplink of (\S+)$", (places.units / SERVICES[0]).read_text(), re.MULTILINE)
    assert found
    return (
        found[1],
        (places.units / "almena-extra.service").exists(),
        (places.units / "almena.target.wants/almena-extra.service").is_symlink(),
    )


def stand_in_systemd(
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[str], dict[str, str]] = lambda _: WELL,
    tried: Callable[[], object] = lambda: None,
) -> list[str]:
    """A stand-in for a systemd that runs the image; almena-trial.service does `tried`. Returns what it was told to do."""
    orders: list[str] = []

    def run(command: list[str], **_: float) -> str:
        if {"enable", "disable"} & {*command}:
            return plan.run([part for part in command if part != "--now"])
        if command[:2] == ["systemctl", "show"]:
            return "".join(f"{name}={value}\n" for name, value in told(command[-1]).items())
        orders.append(" ".join(command[1:3]))
        if command[1:3] == ["start", "--wait"]:
            tried()
        return "ModuleNotFoundError: no module named nothing" if command[0] == "journalctl" else ""

    for module in (service, trial):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(service, "live", lambda _: True)
    return orders


def third_release(places: Places, folder: Path) -> Recipe:
    """A release that is made, and not yet switched to."""
    recipe = a_recipe(folder / "wheels", "1.2")
    made(places, recipe)
    return recipe


def quietly(_: object) -> None:
    """Say it to nobody."""
