"""Releases in an image with a stand-in for Python and systemd: what is switched, kept, and put back when something fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from agent.errors import UsageError
from provisioning.host import install as host
from provisioning.host import releases, service, trial
from provisioning.host.commands import install
from provisioning.host.places import TRIAL, TRIAL_PATH, Places, own_texts
from provisioning.host.plan import HostError, Plan
from provisioning.host.releases import Recipe
from tests.fakes.host_releases import (
    SERVICES,
    WELL,
    a_recipe,
    made,
    quietly,
    stand_in_systemd,
    third_release,
    two_releases,
    units_of,
)

ROOT = Path(__file__).parents[2]
SKIPPED = WELL | {"ActiveState": "inactive", "Result": "exec-condition", "InvocationID": ""}
SKIPPED_BEFORE_251 = WELL | {"ActiveState": "inactive", "InvocationID": "", "ConditionResult": "no"}


def _folders(places: Places, recipe: Recipe) -> Path:
    """The folders that a made release wants."""
    return next((places.releases / recipe.name).glob(f"lib/python3*/site-packages/{releases.TEXTS}almena.tmpfiles"))


@pytest.fixture
def upgraded(tmp_path: Path) -> Places:
    return two_releases(tmp_path)


def test_a_release_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    one = a_recipe(tmp_path / "a", "1.0")
    assert one.name == a_recipe(tmp_path / "b", "1.0").name
    assert one.name.startswith("1.0-")
    others = [a_recipe(tmp_path / "c", "1.0", "#"), Recipe(one.wheel, ("cpu", "rtsp")), Recipe(one.wheel, ("cpu",), system_site=True)]
    assert len({one.name, *(other.name for other in others)}) == 4
    with pytest.raises(HostError, match="is no wheel of Almena"):
        releases.version_of(Path("numpy-2.0-py3-none-any.whl"))


def test_back_and_forward_again(upgraded: Places) -> None:
    new, old = str(releases.target(upgraded.current)), str(releases.target(upgraded.previous))
    assert units_of(upgraded) == (new, True, True)
    said: list[str] = []
    host.rollback(upgraded, Plan(say=said.append))
    assert (releases.target(upgraded.current), releases.target(upgraded.previous)) == (old, new)
    assert units_of(upgraded) == (old, False, False), "units belong to their release"
    assert said == [
        f"switch from release {new} to {old}",
        "stop almena-extra.service",
        f"remove {upgraded.units / 'almena-extra.service'}",
        f"write {upgraded.units / SERVICES[0]}",
        f"keep {new}",
    ]
    host.rollback(upgraded, Plan(dry=True, say=said.append))
    assert releases.target(upgraded.current) == old
    host.rollback(upgraded, Plan(say=said.append))
    assert units_of(upgraded) == (new, True, True)
    shutil.rmtree(upgraded.releases / old)
    with pytest.raises(HostError, match="no other release"):
        host.rollback(upgraded, Plan())


def test_what_a_package_brings_stays_as_it_is(tmp_path: Path) -> None:
    """dpkg has put the new release's files to /usr/lib: where the old one runs, its own are in /etc, which holds."""
    places = Places(tmp_path / "image", packaged=True)
    places.at("/etc").mkdir(parents=True)
    old, new = (made(places, a_recipe(tmp_path / "wheels", version)) for version in ("1.0", "1.1"))
    for path, text in places.written(releases.texts_of(places, new)).items():
        places.brought(path).parent.mkdir(parents=True, exist_ok=True)
        places.brought(path).write_text(text)
        places.brought(path).chmod(0o755 if path.name == "almena" else 0o644)
    lib = {path: path.read_bytes() for path in places.at("/usr/lib").rglob("*") if path.is_file()}
    trial.switch(places, new, None, Plan(say=quietly))
    releases.point(places.previous, old)
    units = {path.name for path in places.units.iterdir() if path.is_file() and not path.is_symlink()}
    assert units == set(), "nothing is written a second time"
    host.rollback(places, Plan(say=quietly))
    assert f"uplink of {old}" in (places.units / SERVICES[0]).read_text()
    assert not (places.units / SERVICES[1]).exists(), "what is the same in both needs no other"
    host.rollback(places, Plan(say=quietly))
    assert not (places.units / SERVICES[0]).exists()
    assert {path: path.read_bytes() for path in lib} == lib
    host.rollback(places, Plan(say=quietly))
    host.uninstall(places, Plan(say=quietly), purge=True)
    assert not [path for path in places.at("/etc").rglob("*almena*") if path.is_file()]


def test_only_the_last_one_is_kept(upgraded: Places, tmp_path: Path) -> None:
    made(upgraded, a_recipe(tmp_path / "wheels", "0.9"))
    (upgraded.releases / "notes.txt").touch()
    releases.retire(upgraded)
    left = {path.name.partition("-")[0] for path in upgraded.releases.iterdir()}
    assert left == {"1.0", "1.1", "notes.txt"}, "what is no release stays"


def test_an_extra_that_no_wheel_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = a_recipe(tmp_path, "1.0").wheel
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("almena-1.0.dist-info/METADATA", "Name: almena\nProvides-Extra: cpu\nProvides-Extra: rtsp\n")
    with pytest.raises(UsageError, match=r"no extra nonsense in almena-1.0-py3-none-any.whl; it has cpu, rtsp$"):
        install(wheel=wheel, extras="cpu,nonsense", root=tmp_path, dry_run=True)
    install(wheel=wheel, extras="cpu, rtsp", root=tmp_path, dry_run=True)
    assert "would switch to release 1.0-" in capsys.readouterr().out


def test_what_is_damaged_is_told(upgraded: Places, tmp_path: Path) -> None:
    new = str(releases.target(upgraded.current))
    unit = next((upgraded.releases / new).glob(f"lib/python3*/site-packages/{releases.TEXTS}almena-extra.service"))
    unit.write_bytes(b"[Service]\n# \xff\n")
    assert (releases.made(upgraded, new), releases.texts_of(upgraded, new)) == (False, {}), "it is made anew"
    with pytest.raises(HostError, match=f"{new} has no units that can be read: it is damaged; install that version again"):
        trial.switch(upgraded, new, None, Plan(say=quietly))
    for record in ("{", "[]"):
        (upgraded.releases / new / releases.RECORD).write_text(record)
        assert (releases.made(upgraded, new), releases.texts_of(upgraded, new)) == (False, {})
        host.uninstall(upgraded, Plan(dry=True, say=quietly))
    wheel = a_recipe(tmp_path, "1.3").wheel
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(f"{releases.TEXTS}almena.target", b"\xff")
    for why in ("utf-8", "not a zip file"):
        with pytest.raises(HostError, match=f"is no wheel, or a damaged one .*{why}"):
            host.install(upgraded, Recipe(wheel, ("cpu",)), Plan(dry=True, say=quietly))
        wheel.write_bytes(b"no zip")


@pytest.mark.parametrize("dicom", [SKIPPED, SKIPPED_BEFORE_251])
def test_an_upgrade_that_starts_stays(upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dicom: dict[str, str]) -> None:
    recipe, old = third_release(upgraded, tmp_path), releases.target(upgraded.current)
    with _folders(upgraded, recipe).open("a") as file:
        file.write("d /var/lib/almena/later 0750 root almena 10d\n")
    judged = partial(trial.judge, upgraded, Plan(say=quietly), 5.0, 0.1)
    orders = stand_in_systemd(monkeypatch, lambda unit: dicom if "dicom" in unit else WELL, judged)
    said: list[str] = []
    host.install(upgraded, recipe, Plan(say=said.append))
    assert (releases.target(upgraded.current), releases.target(upgraded.previous)) == (recipe.name, old)
    assert (upgraded.trial.exists(), said[-1]) == (False, f"release {recipe.name} runs")
    assert units_of(upgraded) == (recipe.name, False, False)
    assert (upgraded.state / "later").is_dir(), "also with a field that this release does not use"
    assert orders.index("daemon-reload") < orders.index("start --wait") < orders.index("restart --no-block")
    assert {folder.name for folder in upgraded.releases.iterdir()} == {recipe.name, old}


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"ActiveState": "activating", "NRestarts": "3", "Result": "exit-code"}, "activating (exit-code, 3 restarts)"),
        ({"ActiveState": "activating", "NRestarts": "0", "Result": "success"}, "activating (success, 0 restarts)"),
        ({"ActiveState": "failed", "NRestarts": "0", "Result": "timeout"}, "failed (timeout, 0 restarts)"),
    ],
)
def test_an_upgrade_that_does_not_start_goes_back(
    upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, str], why: str
) -> None:
    recipe, old = third_release(upgraded, tmp_path), str(releases.target(upgraded.current))

    def told(unit: str) -> dict[str, str]:
        return WELL | state if releases.target(upgraded.current) == recipe.name and "uplink" in unit else WELL

    def tried() -> None:
        with suppress(HostError):
            trial.judge(upgraded, Plan(say=quietly), 0.5, 0.1)

    stand_in_systemd(monkeypatch, told, tried)
    with pytest.raises(HostError) as caught:
        host.install(upgraded, recipe, Plan(say=quietly))
    text = str(caught.value)
    assert f"release {recipe.name} does not start, and {old} is back; that one runs" in text
    assert f"{SERVICES[0]}: {why}" in text
    assert "ModuleNotFoundError" in text
    assert (releases.target(upgraded.current), upgraded.trial.exists()) == (old, False)
    assert units_of(upgraded) == (old, True, True), "its units are back with it"
    assert json.loads(upgraded.verdict.read_text())["kept"] is False


def test_an_upgrade_whose_texts_nobody_understands_goes_back(upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, old = third_release(upgraded, tmp_path), str(releases.target(upgraded.current))
    with _folders(upgraded, recipe).open("a") as file:
        file.write("d /var/lib/almena/later\n")
    stand_in_systemd(monkeypatch, tried=partial(trial.judge, upgraded, Plan(say=quietly), 0.5, 0.1))
    with pytest.raises(
        HostError, match=f"{recipe.name} does not start, and {old} is back; that one runs(?s:.*)ValueError: not enough values"
    ):
        host.install(upgraded, recipe, Plan(say=quietly))
    assert (releases.target(upgraded.current), upgraded.trial.exists()) == (old, False)


def test_a_process_that_starts_again_and_again_has_not_started(upgraded: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    lives = iter(range(1000))
    stand_in_systemd(monkeypatch, lambda _: WELL | {"InvocationID": str(next(lives))})
    assert "almena-vision.service: active" in service.trouble(SERVICES, 0.5, 0.2)


def test_a_systemd_that_breaks_off_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy or reloading: an upgrade is not given up for that."""
    troubles = [HostError("systemctl show failed with code 1:\n  Transport endpoint is not connected")] * (service.TRIES - 1)

    def run(_: list[str]) -> str:
        if troubles:
            raise troubles.pop()
        return "ActiveState=active\n"

    monkeypatch.setattr(service, "run", run)
    monkeypatch.setattr(service.time, "sleep", quietly)
    assert service.state("almena-vision.service") == {"ActiveState": "active"}
    troubles += [HostError("Unit almena-vision.service not found.")]
    with pytest.raises(HostError, match="not found"):
        service.state("almena-vision.service")


def test_who_asked_for_an_upgrade_may_go(upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that drops in the trial, with whatever kills the process: the rest is systemd's, now or after a power cut."""
    recipe, old = third_release(upgraded, tmp_path), str(releases.target(upgraded.current))

    def dropped() -> None:
        raise KeyboardInterrupt

    stand_in_systemd(monkeypatch, tried=dropped)
    with pytest.raises(KeyboardInterrupt):
        host.install(upgraded, recipe, Plan(say=quietly))
    assert json.loads(upgraded.trial.read_text()) == {"before": old, "release": recipe.name, "starts": 0}
    with pytest.raises(HostError, match="an upgrade is on trial: wait for its end"):
        host.install(upgraded, recipe, Plan(say=quietly))
    unit, path = own_texts()[TRIAL], own_texts()[TRIAL_PATH]
    assert f"PathExists=/{upgraded.trial.relative_to(upgraded.root)}" in path, "whoever is gone, systemd sees that there is a trial"
    assert f"ConditionPathExists=/{upgraded.trial.relative_to(upgraded.root)}" in unit
    assert "ExecStart=/opt/almena/previous/bin/python -m provisioning.host judge" in unit
    assert releases.target(upgraded.previous) == old
    trial.judge(upgraded, Plan(say=quietly), 5.0, 0.1)
    assert (releases.target(upgraded.current), units_of(upgraded)[0]) == (recipe.name, recipe.name)


def test_a_release_that_crashes_the_machine_is_not_tried_for_ever(
    upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, old = third_release(upgraded, tmp_path), str(releases.target(upgraded.current))

    def crash() -> None:
        raise KeyboardInterrupt

    stand_in_systemd(monkeypatch, tried=crash)
    monkeypatch.setattr(service, "trouble", lambda *_: crash())
    with pytest.raises(KeyboardInterrupt):
        host.install(upgraded, recipe, Plan(say=quietly))
    for _ in range(trial.STARTS):
        with pytest.raises(KeyboardInterrupt):
            trial.judge(upgraded, Plan(say=quietly))
    monkeypatch.setattr(service, "trouble", lambda *_: "")
    with pytest.raises(HostError, match="was started again in its trial 2 times"):
        trial.judge(upgraded, Plan(say=quietly))
    assert (releases.target(upgraded.current), units_of(upgraded)[0], upgraded.trial.exists()) == (old, old, False)


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"before": "1.0"}', b"\xff\0"])
def test_a_damaged_note_of_a_trial_is_in_nobodys_way(
    upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: bytes
) -> None:
    recipe, old = third_release(upgraded, tmp_path), str(releases.target(upgraded.current))
    said: list[str] = []
    judged = partial(trial.judge, upgraded, Plan(say=said.append), 5.0, 0.1)
    stand_in_systemd(monkeypatch, tried=judged)
    releases.point(upgraded.previous, old)
    upgraded.trial.write_bytes(note)
    with pytest.raises(HostError, match=f"was damaged and is removed; {old} runs on, and nothing else was tried"):
        judged()
    assert (upgraded.trial.exists(), units_of(upgraded)[0], said) == (False, old, [])
    trial.switch(upgraded, recipe.name, old, Plan(say=quietly))
    upgraded.trial.write_bytes(note)
    judged()
    assert f"release {recipe.name} is on trial, and {old} was there before" in said[0]
    assert (upgraded.trial.exists(), units_of(upgraded)[0], said[-1]) == (False, recipe.name, f"release {recipe.name} runs")


def test_a_connection_that_drops_ends_no_work(tmp_path: Path) -> None:
    """SIGHUP, and a terminal that is no more."""
    image = Places(tmp_path / "image")
    image.root.mkdir()
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "agent.cli", "install", "--without-environment", "--root", str(image.root)]
    with subprocess.Popen(["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT) as process:
        os.close(theirs)
        assert os.read(ours, 1), "it has begun"
        os.close(ours)
        process.wait(60)
    host.install(image, None, again := Plan(say=quietly))
    assert not again.changed, "it has done all"


def test_two_at_a_time(upgraded: Places) -> None:
    before = sorted(upgraded.root.rglob("*"))
    with host._only_one(upgraded, Plan()):
        for attempt in (host.rollback, host.uninstall):
            with pytest.raises(HostError, match="another `almena install`, `rollback` or `uninstall` is at work: wait for its end"):
                attempt(upgraded, Plan())
    upgraded.trial.touch()
    with pytest.raises(HostError, match="an upgrade is on trial: wait for its end"):
        host.uninstall(upgraded, Plan())
    upgraded.trial.unlink()
    assert sorted(upgraded.root.rglob("*")) == before


def test_the_lock_is_held_until_the_end_of_an_uninstallation(upgraded: Places) -> None:
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        with pytest.raises(HostError, match="`uninstall` is at work"):
            host.rollback(upgraded, Plan(say=quietly))

    host.uninstall(upgraded, Plan(say=say), purge=True)
    assert told[-1] == f"remove {upgraded.prefix}"
    assert not upgraded.prefix.exists()


def test_what_pip_left_half_made_is_removed(upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = a_recipe(tmp_path / "wheels", "1.2")
    folder = upgraded.releases / recipe.name

    def run(command: list[str], **_: object) -> str:
        folder.mkdir(exist_ok=True)
        (folder / "half").touch()
        if "pip" in command:
            raise HostError("pip failed with code 1:\n  No space left on device")
        return ""

    monkeypatch.setattr(releases, "run", run)
    with pytest.raises(HostError, match="No space left on device"):
        releases.make(upgraded, recipe)
    assert not folder.exists()
    assert {path.name for path in upgraded.prefix.iterdir()} == {"current", "previous", "releases"}
