"""`make deb`: a Debian package with the units and, as wheels, everything that the environment in /opt/almena is made of; with `--hub`
(`make deb-hub`) the package almena-hub of a fleet's hub.

The package fits the Debian release whose Python builds it, and this machine's architecture.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path

from provisioning.host.machine import kit
from provisioning.host.places import Places, mode, own_texts
from provisioning.host.releases import own_wheel, version_of

HERE = Path(__file__).parent
NAMES = {False: "almena", True: "almena-hub"}
DESCRIPTIONS = {
    False: """agent for small computers that see
 Almena turns cameras and radiographs into events that arrive at an MQTT
 broker, none of them lost. It runs as confined services: one has the cameras
 and the models, one the network, and one receives radiographs.""",
    True: """hub of a fleet of computers that see
 Takes in what the devices of Almena send, keeps it, and shows and changes the
 fleet: a console in the browser, an interface for programs, alerts. Another
 service, the enrolment server, gives the devices their certificates.""",
}


def output(*command: str) -> str:
    """What a program prints, without the line's end."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def maintainer() -> str:
    """$DEBFULLNAME and $DEBEMAIL, as Debian's tools take them, or what git knows."""
    name = os.environ.get("DEBFULLNAME") or output("git", "config", "user.name")
    return f"{name} <{os.environ.get('DEBEMAIL') or output('git', 'config', 'user.email')}>"


def control(version: str, hub: bool) -> str:
    """The package's description for dpkg."""
    major, minor = sys.version_info[:2]
    fields = {
        "Package": NAMES[hub],
        "Version": version,
        "Architecture": output("dpkg", "--print-architecture"),
        "Maintainer": maintainer(),
        "Depends": f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1}), python3-venv, systemd (>= 247)",
        "Recommends": "mosquitto" if hub else "udev",
        "Conflicts": NAMES[not hub],
        "Section": "net" if hub else "video",
        "Priority": "optional",
        "Description": DESCRIPTIONS[hub],
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def stage(root: Path, extras: str, find_links: Path | None) -> str:
    """Everything that the package holds; returns its version."""
    hub = "hub" in extras.split(",")
    wheels = root / "usr/share/almena/wheels"
    wheels.mkdir(parents=True)
    with own_wheel() as wheel:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--wheel-dir", str(wheels)]
        options = ["--find-links", str(find_links)] if find_links else []
        subprocess.run([*pip, *options, f"almena[{extras}] @ file://{wheel}"], check=True)
        version = f"{version_of(wheel)}-1"
    places = Places(root)
    for path, text in places.written(own_texts(hub)).items():
        write(places.brought(path), text.encode())
    link = root / "usr/bin/almena"
    link.parent.mkdir(parents=True)
    link.symlink_to("/opt/almena/current/bin/almena")
    stamp = format_datetime(datetime.now(timezone.utc))
    log = f"{NAMES[hub]} ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md of the source.\n\n -- {maintainer()}  {stamp}\n"
    documents = root / "usr/share/doc" / NAMES[hub]
    write(documents / "changelog.Debian.gz", gzip.compress(log.encode(), mtime=0))
    write(documents / "copyright", (HERE / "copyright").read_bytes())
    write(root / "usr/share/man/man1/almena.1.gz", gzip.compress((HERE / "almena.1").read_bytes(), mtime=0))
    overrides = (HERE / "almena.lintian-overrides").read_text().replace("almena:", f"{NAMES[hub]}:")
    write(root / "usr/share/lintian/overrides" / NAMES[hub], overrides.encode())
    write(root / "DEBIAN/control", control(version, hub).encode())
    for script in ("postinst", "prerm", "postrm"):
        write(root / "DEBIAN" / script, (HERE / script).read_text().replace("@EXTRAS@", extras).encode(), 0o755)
    for folder, _, names in os.walk(root):
        Path(folder).chmod(0o755)
        for name in names:
            if not (path := Path(folder) / name).is_symlink() and path.parent.name != "DEBIAN":
                path.chmod(mode(path))
    return version


def main() -> None:
    """Build it, and let lintian look at it where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--extras", default=",".join(kit().extras))
    parser.add_argument("--hub", action="store_true", help="The package of a fleet's hub.")
    parser.add_argument("--find-links", type=Path, help="A folder of wheels that are at hand.")
    options = parser.parse_args()
    os.umask(0o022)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "almena"
        version = stage(root, "hub" if options.hub else options.extras, options.find_links)
        file = options.out / f"{NAMES[options.hub]}_{version}_{output('dpkg', '--print-architecture')}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root), str(file)], check=True)
    print(f"{file}: {file.stat().st_size / 1e6:.0f} MB")
    if shutil.which("lintian"):
        subprocess.run(["lintian", "--fail-on", "error", "--tag-display-limit", "0", str(file)], check=True)


if __name__ == "__main__":
    main()
