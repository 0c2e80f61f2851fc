"""Where everything goes, and what an installation writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

TRIAL, TRIAL_PATH = "almena-trial.service", "almena-trial.path"
USERS = ("almena-vision", "almena-uplink", "almena-dicom", "almena-hub", "almena-enrol")
COMMON = ("almena.target", "almena.generator", TRIAL, TRIAL_PATH)
"""What a device and a hub both have."""
HUB = ("almena-hub.", "almena-enrol.")
"""How the names of the files begin that only a hub has."""
GROUP = "almena"


@dataclass(frozen=True)
class Places:
    """Paths below `root`, which is `/`, or the root of an image. `packaged`: the Debian package brings units and rules to /usr/lib, and
    what is in /etc holds in their place. `hub`: of a fleet's hub instead of a device.
    """

    root: Path = Path("/")
    packaged: bool = False
    hub: bool = False

    @classmethod
    def found(cls, root: Path = Path("/")) -> Places:
        """Of this host, on which the Debian package may be installed."""
        return cls(root, packaged=cls(root).wheels.is_dir())

    def at(self, path: str) -> Path:
        """An absolute path, in the image."""
        return self.root / path.lstrip("/")

    @property
    def prefix(self) -> Path:
        """The environments: releases/, and the links current and previous."""
        return self.at("/opt/almena")

    @property
    def releases(self) -> Path:
        """One environment for each version that is kept."""
        return self.prefix / "releases"

    @property
    def current(self) -> Path:
        """A link to the release that runs."""
        return self.prefix / "current"

    @property
    def previous(self) -> Path:
        """A link to the one before."""
        return self.prefix / "previous"

    @property
    def trial(self) -> Path:
        """There as long as an upgrade has not proven that it starts."""
        return self.prefix / "trial"

    @property
    def verdict(self) -> Path:
        """What became of the last upgrade."""
        return self.prefix / "last-upgrade.json"

    @property
    def wheels(self) -> Path:
        """What the Debian package brings."""
        return self.at("/usr/share/almena/wheels")

    @property
    def settings_dir(self) -> Path:
        """Settings, keys, passwords."""
        return self.at("/etc/almena")

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.settings_dir / ("hub.yaml" if self.hub else "almena.yaml")

    @property
    def state(self) -> Path:
        """What the agent keeps."""
        return self.at("/var/lib/almena")

    @property
    def command(self) -> Path:
        """The command in everybody's PATH."""
        return self.at("/usr/bin/almena" if self.packaged else "/usr/local/bin/almena")

    @property
    def accounts(self) -> Path:
        """What systemd-sysusers reads."""
        return self.at("/etc/sysusers.d/almena.conf")

    @property
    def folders(self) -> Path:
        """What systemd-tmpfiles reads."""
        return self.at("/etc/tmpfiles.d/almena.conf")

    @property
    def units(self) -> Path:
        """The folder of the units."""
        return self.at("/etc/systemd/system")

    def written(self, texts: Mapping[str, str]) -> dict[Path, str]:
        """Where the files of a release belong, each with its text."""
        placed = {
            ".sysusers": self.accounts,
            ".tmpfiles": self.folders,
            ".generator": self.at("/etc/systemd/system-generators/almena"),
            ".rules": self.at("/etc/udev/rules.d/72-almena.rules"),
        }
        return {placed.get(Path(name).suffix, self.units / name): text for name, text in sorted(texts.items())}

    def brought(self, path: Path) -> Path:
        """Where the Debian package has the file that `written` puts at `path`."""
        return self.at("/usr/lib") / path.relative_to(self.at("/etc"))

    def there(self, path: Path) -> bool:
        """Whether such a file is in force, of whoever."""
        return path.exists() or (self.packaged and self.brought(path).exists())


def own_texts(hub: bool = False) -> dict[str, str]:
    """Units, accounts, folders and rules of the release that this code belongs to, by name."""
    return of_role({file.name: file.read_text(encoding="utf-8") for file in (files("provisioning.host") / "units").iterdir()}, hub)


def of_role(texts: Mapping[str, str], hub: bool) -> dict[str, str]:
    """Those of them that a hub has, or a device."""
    return {name: text for name, text in texts.items() if name in COMMON or name.startswith(HUB) == hub}


def lines_of(texts: Mapping[str, str], suffix: str) -> list[str]:
    """The lines of what is for systemd-sysusers or systemd-tmpfiles, without comments."""
    text = "".join(text for name, text in texts.items() if name.endswith(suffix))
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def mode(path: Path) -> int:
    """Of a file that an installation writes."""
    return 0o755 if path.parent.name == "system-generators" else 0o644


def units(texts: Mapping[str, str]) -> list[str]:
    """Names of the units among them that start at boot."""
    return sorted(name for name, text in texts.items() if "\n[Install]\n" in text)


def processes(texts: Mapping[str, str]) -> list[str]:
    """Names of the units that say when they are ready."""
    return [name for name in units(texts) if "\nType=notify\n" in texts[name]]
