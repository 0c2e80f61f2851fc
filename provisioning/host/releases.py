"""Environments in /opt/almena/releases: made beside the one that runs, and switched by a link, so that there is always a way back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.host import written
from provisioning.host.places import Places, of_role
from provisioning.host.plan import HostError, run

RECORD = "almena-release.json"
"""Written last: a folder without it is half made, and made anew."""
ROOM = 2 * 1024**3
PIP_S = 3600.0
TEXTS = "provisioning/host/units/"
"""Where a release, and its wheel, has its units and what goes with them."""
SOURCES = (".*", "tests", "docs", "deploy", "__pycache__", "build", "dist", "*.egg-info", "*-state")


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of. `also`: further requirements; `wheels`: a folder that pip takes everything from, without network."""

    wheel: Path
    extras: tuple[str, ...]
    system_site: bool = False
    also: tuple[str, ...] = ()
    wheels: Path | None = None

    @property
    def name(self) -> str:
        """The same for the same contents: version, and a digest of what decides what is in it."""
        with _opened(self.wheel) as archive:
            contents = sorted((member.filename, member.CRC) for member in archive.infolist())
        made_of = [contents, self.extras, self.system_site, self.also, sys.version_info[:2]]
        return f"{version_of(self.wheel)}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]}"

    @property
    def offered(self) -> list[str]:
        """The extras that the wheel's METADATA tells."""
        with _opened(self.wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            return [extra for name in names for extra in re.findall(r"^Provides-Extra: (\S+)", archive.read(name).decode(), re.MULTILINE)]

    @property
    def texts(self) -> dict[str, str]:
        """Its units, accounts, folders and rules, by name."""
        with _opened(self.wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(TEXTS)]
            return of_role({Path(name).name: archive.read(name).decode() for name in names}, "hub" in self.extras)


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """Raises HostError for what is no wheel, or a damaged one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise HostError(f"{wheel} is no wheel, or a damaged one ({error}): copy or build it again") from error


def version_of(wheel: Path) -> str:
    """From its name (PEP 427). Raises HostError for the wheel of something else."""
    found = re.fullmatch(r"almena-([^-]+)-.*\.whl", wheel.name)
    if not found:
        raise HostError(f"{wheel} is no wheel of Almena: its name must be almena-VERSION-py3-none-any.whl")
    return found[1]


def target(link: Path) -> str | None:
    """The name of the release that a link points to, None without one."""
    return Path(os.readlink(link)).name if link.is_symlink() else None


def point(link: Path, release: str) -> None:
    """Let `link` point to a release from one moment to the next, also when the power fails."""
    written.point(link, Path("releases") / release)


def made(places: Places, name: str) -> bool:
    """Whether the release is complete, and its texts can be read."""
    return bool(texts_of(places, name))


def _record(places: Places, name: str | None) -> dict[str, Any] | None:
    """What a release is made of; None of one that is half made or damaged."""
    try:
        record = json.loads((places.releases / str(name) / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def texts_of(places: Places, name: str | None) -> dict[str, str]:
    """Units, accounts, folders and rules of a release that is kept, by name; none of one that is damaged."""
    record = _record(places, name)
    if record is None:
        return {}
    files = (places.releases / str(name)).glob(f"lib/python3*/site-packages/{TEXTS}*")
    try:
        texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    except UnicodeDecodeError:
        return {}
    return of_role(texts, "hub" in record.get("extras", ()))


def make(places: Places, recipe: Recipe) -> None:
    """Make the environment, in an image with the image's own Python. Raises HostError; then nothing of it is left."""
    folder = places.releases / recipe.name
    require_writable(places.releases)
    _require_room(places.releases)
    for left in places.prefix.glob("wheels-*"):
        shutil.rmtree(left)
    if folder.exists():
        shutil.rmtree(folder)
    inside = "" if places.root == Path("/") else str(places.root)
    prefix = ["chroot", inside] if inside else []
    path = f"/opt/almena/releases/{recipe.name}"
    with tempfile.TemporaryDirectory(dir=places.prefix, prefix="wheels-") as handed:
        offline = _handed(recipe, Path(handed))
        where = f"/opt/almena/{Path(handed).name}"
        wanted = f"almena[{','.join(recipe.extras)}] @ file://{where}/{recipe.wheel.name}"
        options = ["--disable-pip-version-check", *(["--no-index", "--find-links", where] if offline else [])]
        python = "/usr/bin/python3" if inside or places.packaged else sys.executable
        site = ["--system-site-packages"] if recipe.system_site else []
        try:
            run([*prefix, python, "-I", "-m", "venv", *site, path], timeout_s=PIP_S)
            run([*prefix, f"{path}/bin/python", "-I", "-m", "pip", "install", *options, wanted, *recipe.also], timeout_s=PIP_S)
            run([*prefix, f"{path}/bin/almena", "--version"])
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    record = {"name": recipe.name, "extras": recipe.extras, "system_site": recipe.system_site, "also": recipe.also}
    os.sync()
    written.write(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _handed(recipe: Recipe, folder: Path) -> bool:
    """Put the wheel, and those that go with it, where the environment's pip finds them. Whether it needs no other place."""
    folder.chmod(0o755)
    for wheel in {recipe.wheel, *(recipe.wheels.glob("*.whl") if recipe.wheels else ())}:
        try:
            os.link(wheel, folder / wheel.name)
        except OSError:
            shutil.copyfile(wheel, folder / wheel.name)
    return recipe.wheels is not None


def retire(places: Places) -> None:
    """Remove all releases but the current and the previous one."""
    kept = {target(places.current), target(places.previous)}
    for folder in places.releases.glob("*"):
        if folder.name not in kept and folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)


@contextmanager
def own_wheel() -> Iterator[Path]:
    """A wheel of the checkout that this code runs from. Raises HostError where it runs from an installed package."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        raise HostError("there is no source here to make a wheel of: run `sudo .venv/bin/almena install` in a checkout, or give --wheel")
    with tempfile.TemporaryDirectory(prefix="almena-wheel-") as folder:
        copy = Path(folder) / "source"
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(*SOURCES))
        pip = [sys.executable, "-I", "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
        run([*pip, "-w", folder, str(copy)], timeout_s=PIP_S)
        (wheel,) = Path(folder).glob("almena-*.whl")
        yield wheel


def require_writable(folder: Path) -> None:
    """Make a folder if need be. Raises HostError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = f"{folder} cannot be written ({error.strerror}): is the disk full or mounted read-only? The release that runs stays"
        raise HostError(why) from error


def _require_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise HostError(f"{folder} has {free / 1e9:.1f} GB free and {ROOM / 1e9:.1f} GB are needed: make room. The release that runs stays")
