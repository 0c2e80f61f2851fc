"""`almena install` into an image, and its units before the real systemd-analyze. `make field-test` does the same on a system that runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fleet import settings as hub_settings
from provisioning.host import install as host
from provisioning.host.install import device_name
from provisioning.host.machine import kit
from provisioning.host.places import TRIAL, Places, own_texts, processes, units
from provisioning.host.plan import HostError, Plan
from tests.field.scores import HIGHEST, above, scored

USERS = ("almena-vision", "almena-uplink", "almena-dicom")
UNITS = units(own_texts())
HUB, ENROL = "almena-hub.service", "almena-enrol.service"


@pytest.fixture
def image(tmp_path: Path) -> Places:
    """An image with everything but the environment, of which there is only the interpreter's name."""
    root = tmp_path / "image"
    root.mkdir()
    host.install(Places(root), None, Plan(say=lambda _: None))
    return Places(root)


def _tree(root: Path) -> dict[str, tuple[int, int, int]]:
    """Path to mode, owner and group."""
    paths = {str(path.relative_to(root)): path.lstat() for path in sorted(root.rglob("*"))}
    return {name: (found.st_mode & 0o7777, found.st_uid, found.st_gid) for name, found in paths.items()}


def _ids(image: Places, table: str) -> dict[str, int]:
    lines = (line.split(":") for line in image.at(f"/etc/{table}").read_text().splitlines())
    return {fields[0]: int(fields[2]) for fields in lines}


def test_who_may_do_what(image: Places) -> None:
    users, groups = _ids(image, "passwd"), _ids(image, "group")
    assert set(USERS) <= users.keys()
    members = {line.split(":")[0]: line.split(":")[3].split(",") for line in image.at("/etc/group").read_text().splitlines()}
    assert set(members["almena"]) == set(USERS)
    assert (members["video"], members["render"]) == (["almena-vision"], ["almena-vision"])
    tree = _tree(image.root)
    shared, vision, uplink = groups["almena"], users["almena-vision"], users["almena-uplink"]
    assert tree["etc/almena/keys"] == (0o700, 0, 0)
    assert tree["etc/almena/keys/gallery.key"] == (0o600, 0, 0)
    assert tree["etc/almena/almena.yaml"] == (0o640, 0, shared)
    assert tree["etc/almena/uplink"] == (0o710, 0, shared)
    assert tree["var/lib/almena"] == (0o3770, 0, shared)
    assert tree["var/lib/almena/outbox"] == (0o2770, uplink, shared)
    assert tree["var/lib/almena/gallery"][:2] == (0o700, vision)
    assert tree["var/lib/almena/identity"][:2] == (0o700, uplink)
    assert len(bytes.fromhex(image.at("/etc/almena/keys/gallery.key").read_text())) == 32


def test_a_second_time_there_is_nothing_to_do(image: Places) -> None:
    before, said = _tree(image.root), []
    (image.settings).write_text("device: {name: mine}\n")
    again = Plan(say=said.append)
    host.install(image, None, again)
    assert (again.changed, said) == (False, [])
    assert _tree(image.root) == before
    assert image.settings.read_text() == "device: {name: mine}\n", "what somebody wrote stays"
    unit = image.units / "almena-vision.service"
    unit.write_text("[Unit]\n")
    host.install(image, None, Plan(say=said.append))
    assert said == [f"write {unit}"]


def test_what_somebody_changed_is_put_right(image: Places) -> None:
    before = _tree(image.root)
    key, generator = image.settings_dir / "keys/gallery.key", image.at("/etc/systemd/system-generators/almena")
    text = key.read_text()
    key.chmod(0o644)
    os.chown(image.state / "identity", 0, 0)
    (image.state / "gallery").chmod(0o755)
    image.settings.chmod(0o666)
    generator.chmod(0o644)
    groups = image.at("/etc/group")
    groups.write_text(re.sub(r"^(render:.*:)almena-vision$", r"\1", groups.read_text(), flags=re.MULTILINE))
    said: list[str] = []
    host.install(image, None, Plan(dry=True, say=said.append))
    told = "\n".join(said)
    for part in (f"would close {key}, which had mode 0644", f"{image.state}/identity", "almena-vision in render"):
        assert part in told
    assert _tree(image.root) != before, "a dry run mends nothing"
    host.install(image, None, Plan(say=said.append))
    assert {name: found for name, found in _tree(image.root).items() if not name.endswith("-")} == before
    assert key.read_text() == text
    assert re.search(r"^render:.*:almena-vision$", groups.read_text(), re.MULTILINE)


def test_what_is_in_an_image_may_be_odd(image: Places) -> None:
    """Names in Latin-1, lines that say nothing, a key in bytes."""
    for table, name in (("passwd", b"jos\xe9:x:1500:1500::/:/bin/sh"), ("group", b"caf\xe9:x:1500:")):
        with image.at(f"/etc/{table}").open("ab") as file:
            file.write(name + b"\n\n+\n")
    key = image.settings_dir / "keys/gallery.key"
    key.write_bytes(bytes(range(128, 160)))
    again = Plan(say=lambda _: None)
    host.install(image, None, again)
    assert not again.changed
    key.chmod(0o644)
    host.install(image, None, again)
    assert (key.stat().st_mode & 0o777, key.read_bytes()) == (0o600, bytes(range(128, 160)))


@pytest.mark.parametrize("name", ["var/lib/almena/gallery", "etc/almena/keys/gallery.key", "etc/almena", "opt/almena"])
def test_root_follows_no_link(image: Places, tmp_path: Path, name: str) -> None:
    place, elsewhere = image.root / name, tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    before = _tree(elsewhere)
    with pytest.raises(HostError, match=f"{name}: a link, which root does not follow"):
        host.install(image, None, Plan(say=lambda _: None))
    assert _tree(elsewhere) == before


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    host.install(Places(tmp_path), None, Plan(dry=True, say=said.append))
    assert list(tmp_path.iterdir()) == []
    assert f"would make the accounts {', '.join(USERS)}" in said
    assert sum(line.startswith("would write") for line in said) == len(own_texts()) + 1
    host.uninstall(Places(tmp_path), Plan(dry=True, say=said.append))


def test_uninstalling_leaves_data(image: Places) -> None:
    (image.state / "outbox" / "outbox.db").write_text("data")
    (image.state / "clip.mp4").touch()
    host.uninstall(image, Plan(say=lambda _: None))
    left = {
        str(path.relative_to(image.root))
        for path in image.root.rglob("*")
        if path.is_file() and "almena" in str(path.relative_to(image.root))
    }
    assert left == {
        "etc/almena/almena.yaml",
        "etc/almena/keys/gallery.key",
        "etc/almena/keys/studies.key",
        "var/lib/almena/clip.mp4",
        "var/lib/almena/outbox/outbox.db",
    }
    assert not {*USERS, "almena"} & {*_ids(image, "passwd"), *_ids(image, "group")}
    tree = _tree(image.root)
    assert {tree[name][1:] for name in left} == {(0, 0)}, "no later account may get them by its number"
    host.install(image, None, Plan(say=lambda _: None))
    tree, users, shared = _tree(image.root), _ids(image, "passwd"), _ids(image, "group")["almena"]
    assert tree["var/lib/almena/outbox/outbox.db"][1:] == (users["almena-uplink"], shared), "an installation takes them over"
    assert tree["var/lib/almena/clip.mp4"][1:] == (0, shared)
    assert tree["etc/almena/almena.yaml"] == (0o640, 0, shared)
    host.uninstall(image, Plan(say=lambda _: None), purge=True)
    assert not image.state.exists()
    assert not image.settings_dir.exists()
    said: list[str] = []
    host.uninstall(image, Plan(say=said.append))
    assert said == ["nothing of Almena is here"]


def test_units_are_confined(image: Places) -> None:
    """And a unit that is opened is found out."""
    scores, folder = {}, image.root.parent
    for name, text in (own_texts() | own_texts(hub=True)).items():
        if (unit := folder / name).suffix == ".service":
            unit.write_text(text)
            scores[unit.stem], _ = scored(unit)
    assert above(scores) == []
    vision = folder / "almena-vision.service"
    vision.write_text(
        re.sub(r"^(ProtectSystem|ProtectHome|PrivateUsers|SystemCallFilter)=.*\n", "", vision.read_text(), flags=re.MULTILINE)
    )
    opened, line = scored(vision)
    assert opened > HIGHEST["almena-vision"], line
    del scores["almena-hub"]
    assert above(scores | {"almena-vision": opened}) == ["almena-hub: None, allowed is 1.3", f"almena-vision: {opened}, allowed is 1.8"]


def test_units_are_understood(image: Places) -> None:
    """systemd-analyze says nothing about them where the programs that they start are there."""
    for program in ("opt/almena/current/bin/almena", "opt/almena/current/bin/python", "opt/almena/previous/bin/python", "usr/bin/grep"):
        image.at(program).parent.mkdir(parents=True, exist_ok=True)
        image.at(program).symlink_to("/bin/true")
    copies = image.root.parent / "units"
    copies.mkdir()
    names = [*UNITS, TRIAL, HUB, ENROL]
    for name in names:
        text = (own_texts() | own_texts(hub=True))[name]
        (copies / name).write_text(re.sub(r"/opt/almena", str(image.prefix), text))
    command = ["systemd-analyze", "verify", "--man=no", *(str(copies / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_units_name_only_what_is_installed(image: Places) -> None:
    known = {*_tree(image.root), "etc/almena/almena.yaml"}
    for name in processes(own_texts()):
        text = (image.units / name).read_text()
        assert re.search(r"^Type=notify$", text, re.MULTILINE)
        assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)
        for path in re.findall(r"(?<=[ :=-])(/(?:etc|var/lib)/almena[\w./-]*)", text):
            assert path.strip("/") in known, f"{name} names {path}"
        module = re.search(r"-m (agent\.\w+) /etc/almena/almena.yaml$", text, re.MULTILINE)
        assert module
        assert find_spec(f"{module[1]}.__main__")


def test_the_settings_are_right(image: Places) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "agent.cli", "check", "--config", str(image.settings)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_hub_in_the_place_of_a_device(tmp_path: Path) -> None:
    hub = Places(tmp_path, hub=True)
    host.install(hub, None, Plan(say=lambda _: None))
    tree, users, groups = _tree(tmp_path), _ids(hub, "passwd"), _ids(hub, "group")
    assert {name for name in users if name.startswith("almena")} == {"almena-hub", "almena-enrol"}
    assert {path.name for path in hub.units.iterdir()} == {HUB, ENROL, "almena.target", "almena-trial.service", "almena-trial.path"}
    assert tree["var/lib/almena/hub"] == (0o700, users["almena-hub"], groups["almena"])
    assert tree["var/lib/almena/fleet"] == (0o700, users["almena-enrol"], groups["almena"])
    assert tree["etc/almena/enrol"] == (0o700, 0, 0)
    assert tree["etc/almena/hub.yaml"] == (0o640, 0, groups["almena"])
    assert hub_settings.load(hub.settings).store == "sqlite:////var/lib/almena/hub/hub.sqlite"
    later = {"etc/almena/enrol/ca.passphrase", "var/lib/almena/fleet/fleet.yaml"}
    for path in re.findall(r"(?<=[ :=])(/(?:etc|var/lib)/almena[\w./-]*)", (hub.units / HUB).read_text() + (hub.units / ENROL).read_text()):
        assert path.strip("/") in {*tree, *later}, path
    again = Plan(say=lambda _: None)
    host.install(hub, None, again)
    assert not again.changed
    host.uninstall(hub, Plan(say=lambda _: None), purge=True)
    assert not list(tmp_path.rglob("*almena*"))


def test_names_and_machines(tmp_path: Path) -> None:
    assert [device_name(host) for host in ("Gate_7.example.org", "hub", "---", "x" * 80)] == ["gate-7", "almena", "almena", "x" * 63]
    assert "openvino" in kit(tmp_path, "x86_64").extras
    assert kit(tmp_path, "aarch64").extras == ("cpu", "convert", "rtsp")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    orin = kit(tmp_path, "aarch64")
    assert ("tensorrt" in orin.extras, orin.system_site, orin.also) == (True, True, ("cuda-python>=12,<13",))


def test_what_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").write_text("a file in the place of a folder")
    with pytest.raises(
        HostError, match=r"could not write \S+: Not a directory .* is the disk full, or mounted read-only\? What was done so far"
    ):
        host.install(Places(tmp_path), None, Plan(say=lambda _: None))
    (tmp_path / "etc").unlink()
    for version, why in (("246", "systemd 246 is too old: the units need 247"), ("", "there is no systemd here; `almena run` runs")):
        (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho 'systemd {version} (x)'\n")
        (tmp_path / "systemctl").chmod(0o755 if version else 0o644)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(HostError, match=why):
            host.install(Places(tmp_path), None, Plan(dry=True))
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="run it with sudo"):
        host.install(Places(tmp_path), None, Plan())
    monkeypatch.undo()
    with pytest.raises(HostError, match="--root is where the image of a system is mounted"):
        host.install(Places(tmp_path / "nowhere"), None, Plan())
    with pytest.raises(HostError, match="no other release to go back to"):
        host.rollback(Places(tmp_path), Plan())


def test_package_and_installation_do_not_mix(image: Places) -> None:
    image.command.parent.mkdir(parents=True)
    image.command.symlink_to("/opt/almena/current/bin/almena")
    with pytest.raises(HostError, match="run `sudo almena uninstall` first"):
        host.install(Places(image.root, packaged=True), None, Plan())
    image.at("/usr/share/almena/wheels").mkdir(parents=True)
    with pytest.raises(HostError, match="apt remove almena"):
        host.install(image, None, Plan())
