"""`make field-test`: Almena on a clean Debian under a real systemd, in a namespace of its own (systemd-nspawn), and on an
emulated machine (qemu-system-x86) with a camera. Prints what was seen.

Needs root, debootstrap and systemd-container; 8 GB in FOLDER, which a second run uses again. `--stage` runs one stage, or several, on the
system that the run before left; all of them begin with a clean one. `--debian trixie` takes another release, for the stages service,
upgrade, power, fleet and hub.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from tests.fakes.cards import write_card
from tests.fakes.certificates import Authority
from tests.field import machine, stand_ins
from tests.field.scores import above, scored

REPO = Path(__file__).parents[2]
PACKAGES = (
    "systemd,systemd-sysv,dbus,udev,python3,python3-venv,mosquitto,mosquitto-clients,iproute2,linux-image-amd64,initramfs-tools,v4l-utils"
)
MODELS = ("centerface.onnx", "dlib-resnet.dat", "astronaut.png", "grace_hopper.jpg")
UNIT = "provisioning/host/units/almena-vision.service"
NEXT = {"agent/__init__.py": '__version__ = "99.1"\n', UNIT: (REPO / "systemd/almena-vision.service").read_text() + "# of 99.1\n"}
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
"""Releases of Debian, and the Python of each."""
MORE = ("ai-edge-litert", "tensorflow-cpu")
EXTRAS = "cpu,convert,rtsp,openvino"
LIMIT_S = 900
RULES = "rules"
"""Scores of the units, and the matrix of who may do what at the broker."""
IN_A_NAMESPACE = ("service", "upgrade", "power", "fleet", "hub", "package")
"""Each is a boot; `power` is what comes after `upgrade`, which ends as by a power cut."""
STAGES = (RULES, *IN_A_NAMESPACE, *stand_ins.RELEASES, "machine")


def run(*command: str) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True)


def clean_root(folder: Path, debian: str, mirror: str) -> Path:
    """A minimal Debian that runs guest.py at each boot."""
    root = folder / "root"
    if not (root / "etc/systemd/system/field.service").exists():
        shutil.rmtree(root, ignore_errors=True)
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", debian, str(root), mirror)
        unit = "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /field/guest.py\n"
        unit += "StandardOutput=journal+console\nTimeoutStartSec=infinity\n[Install]\nWantedBy=multi-user.target\n"
        system = root / "etc/systemd/system"
        (system / "mosquitto.service").symlink_to("/dev/null")
        (system / "field.service").write_text(unit)
        (system / "multi-user.target.wants/field.service").symlink_to("../field.service")
        (root / "etc/hostname").write_text("gate\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost gate\n")
    return root


def fetch(folder: Path, debian: str, *requirements: str) -> None:
    """Wheels of these and of what they need, for the Python of a release."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    run(*pip, "--python-version", PYTHONS[debian], "--dest", str(folder), "--find-links", str(folder), *requirements)


def payload(folder: Path, debian: str, stages: Sequence[str]) -> Path:
    """Everything that the guest needs for these stages, since it has no network."""
    from agent.demo import sample_clip

    place = folder / "payload"
    wheels = place / "wheels"
    for part in ("wheels", "broken", "next", "models", "deb"):
        shutil.rmtree(place / part, ignore_errors=True)
        (place / part).mkdir(parents=True)
    from provisioning.host.releases import own_wheel

    with own_wheel() as wheel:
        fetch(folder / "cache", debian, f"almena[{EXTRAS},hub] @ file://{wheel}")
        for stale in (folder / "cache").glob("almena-*.whl"):
            stale.unlink()
        shutil.copytree(folder / "cache", wheels, dirs_exist_ok=True, copy_function=os.link)
        own = Path(shutil.copy(wheel, wheels))
    release(own, place / "broken", "99.0", {"agent/uplink/__main__.py": "raise SystemExit('broken on purpose')\n"})
    later = release(own, place / "next", "99.1", NEXT)
    clip = sample_clip(folder, folder / "models")
    shutil.copy(clip, place / "clip.mp4")
    for name in MODELS:
        shutil.copy(folder / "models" / name, place / "models" / name)
    if "power" not in stages or "upgrade" in stages:  # `power` by itself goes on with the certificates that `upgrade` left in the system
        authority = Authority(place / "tls")
        authority.server(), authority.client("hub"), authority.client("gate")
    for name in (*(path.name for path in Path(__file__).parent.glob("guest*.py")), "probe.py"):
        shutil.copy(Path(__file__).with_name(name), place / name)
    if "service" in stages:
        more_backends(folder, debian, place / "more")
    if "package" in stages:
        build = [sys.executable, "-m", "deploy.deb.build", "--out", str(place / "deb"), "--find-links", str(folder / "cache")]
        run(*build, "--hub")
        run(*build, "--extras", EXTRAS)
        later_package(place / "deb", later)
    return place


def more_backends(folder: Path, debian: str, place: Path) -> None:
    """LiteRT and TensorFlow, a small classifier for each, and their cards."""
    shutil.rmtree(place, ignore_errors=True)
    wheels, made = folder / "more", folder / "networks"
    fetch(wheels, debian, *MORE)
    shutil.copytree(wheels, place / "wheels", copy_function=os.link)
    if not made.exists():
        made.mkdir()
        np.save(made / "weights.npy", np.zeros((4, 3, 3, 3), np.float32))
        run(sys.executable, str(REPO / "tests/fakes/tensorflow_models.py"), str(made))
    for backend, name, kind in (("litert", "network.tflite", "tflite"), ("tensorflow", "network.savedmodel", "savedmodel")):
        copy = shutil.copytree if (made / name).is_dir() else shutil.copy
        copy(made / name, place / name)
        write_card(place / f"{backend}.yaml", place / name, kind, source={"kind": "local", "path": f"/var/lib/almena/models/{name}"})


def later_package(folder: Path, wheel: Path) -> None:
    """The device's package with this wheel instead, and a unit of it that differs."""
    (package,) = folder.glob("almena_*.deb")
    tree = folder / "tree"
    run("dpkg-deb", "--raw-extract", str(package), str(tree))
    (own,) = tree.glob("usr/share/almena/wheels/almena-*.whl")
    own.unlink()
    shutil.copy(wheel, own.parent)
    (tree / "usr/lib/systemd/system" / Path(UNIT).name).write_text(NEXT[UNIT])
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*", "Version: 99.1-1", control.read_text(), flags=re.MULTILINE))
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(folder / "almena_99.1-1.deb"))
    shutil.rmtree(tree)


def release(wheel: Path, folder: Path, version: str, changed: dict[str, str]) -> Path:
    """The wheel under another version, with some files changed."""
    old = re.match(r"almena-([^-]+)-", wheel.name)[1]  # type: ignore[index]
    made = folder / wheel.name.replace(old, version)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w") as target:
        for member in source.infolist():
            text = source.read(member)
            name = member.filename.replace(f"almena-{old}.dist-info", f"almena-{version}.dist-info")
            if name.endswith("METADATA"):
                text = text.replace(f"\nVersion: {old}\n".encode(), f"\nVersion: {version}\n".encode())
            elif name.endswith("RECORD"):
                text = "".join(f"{line.split(',')[0]},,\n" for line in text.decode().replace(old, version).splitlines()).encode()
            target.writestr(name, changed.get(name, text))
    return made


@contextmanager
def copied(root: Path, scratch: Path, *, fresh: bool = True) -> Iterator[Path]:
    """A copy of the root, which a later call goes on with unless it wants a fresh one."""
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    for name in ("up", "work", "merged"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    merged = scratch / "merged"
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={root},upperdir={scratch / 'up'},workdir={scratch / 'work'}", str(merged))
    try:
        yield merged
    finally:
        subprocess.run(["umount", str(merged)], check=False)


def in_a_namespace(merged: Path, place: Path, out: Path, stage: str) -> list[dict[str, object]]:
    """Boot it once under systemd-nspawn; what guest.py reported."""
    out.mkdir(exist_ok=True)
    (out / "stage").write_text(stage)
    report = out / f"{stage}.json"
    report.unlink(missing_ok=True)
    command = ["systemd-nspawn", "--quiet", "--boot", "--directory", str(merged), "--machine=gate", "--register=no", "--keep-unit"]
    command += ["--private-network", f"--bind-ro={place}:/field", f"--bind={out}:/out", stand_ins.LEGACY]
    with (out / f"{stage}.console").open("wb") as console, suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, timeout=LIMIT_S, check=False)
    if not report.exists():
        return [{"step": stage, "ok": False, "seconds": 0, "saw": f"nothing within {LIMIT_S} s: see {out / stage}.console"}]
    found: list[dict[str, object]] = json.loads(report.read_text())
    return found


def rules() -> Iterator[dict[str, object]]:
    """Print the scores of the units, none of which may be above what is allowed, and the matrix."""
    found = {unit.stem: scored(unit) for unit in sorted((REPO / "systemd").glob("*.service"))}
    print("\n".join(line for _, line in found.values()), flush=True)
    wrong = above({name: score for name, (score, _) in found.items()})
    yield {"step": "scores", "ok": not wrong, "seconds": 0, "saw": "; ".join(wrong) or "none above what is allowed"}
    done = subprocess.run([sys.executable, "-m", "agent.cli", "fleet", "acl-matrix"], check=False)
    yield {"step": "matrix", "ok": done.returncode == 0, "seconds": 0, "saw": "above"}


def carried_out(stages: Sequence[str], folder: Path, debian: str, mirror: str) -> Iterator[dict[str, object]]:
    """The stages, one after the other; what was seen in each."""
    if RULES in stages:
        yield from rules()
    for stage in stand_ins.RELEASES:
        if stage in stages:
            stand_ins.prepare(stage, folder / stage, mirror)
            yield stand_ins.boot(stage, folder / stage)
    if set(stages) <= {RULES, *stand_ins.RELEASES}:
        return
    root, place = clean_root(folder, debian, mirror), payload(folder, debian, stages)
    for number, stage in enumerate(stage for stage in stages if stage in IN_A_NAMESPACE):
        with copied(root, folder / "scratch", fresh=stages == STAGES and number == 0) as merged:
            yield from in_a_namespace(merged, place, folder / "out", stage)
    if "machine" in stages and not shutil.which(machine.QEMU):
        yield {"step": "machine", "ok": False, "seconds": 0, "saw": f"{machine.QEMU} is not installed"}
    elif "machine" in stages:
        (wheel,) = (place / "wheels").glob("almena-*.whl")
        with copied(root, folder / "image") as merged:
            machine.image(merged, wheel, place / "wheels", folder / "disk.ext4")
        yield from machine.boot(root, folder / "disk.ext4", folder / "machine.log")


def main() -> int:
    """Exit code 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/almena-field"))
    parser.add_argument("--stage", action="append", choices=STAGES, help="Only this one; may be given several times.")
    parser.add_argument("--debian", choices=PYTHONS, default="bookworm")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    options = parser.parse_args()
    missing = [name for name in ("debootstrap", "systemd-nspawn", "systemd-analyze") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        print(f"field-test needs root, and debootstrap and systemd-container; missing: {', '.join(missing) or 'root'}", file=sys.stderr)
        return 2
    folder = options.folder / options.debian
    folder.mkdir(parents=True, exist_ok=True)
    well = True
    for step in carried_out(tuple(options.stage or STAGES), folder, options.debian, options.mirror):
        well = well and bool(step["ok"])
        print("ok  " if step["ok"] else "FAIL", f"{step['step']} ({step['seconds']} s): {step['saw']}", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
