"""Releases in an image with a stand-in for Python and systemd: what is switched, kept, and put back when something fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from provisioning.host import install as host
from provisioning.host import plan, releases, service, trial
from provisioning.host.places import TRIAL, TRIAL_PATH, Places, own_texts
from provisioning.host.plan import HostError, Plan
from provisioning.host.releases import Recipe
from tests.fakes.small_disk import fill, on_small_disk

ROOT = Path(__file__).parents[2]
SERVICES = ("almena-uplink.service", "almena-vision.service", "almena-dicom.service")
EXTRA = "[Service]\nType=notify\nExecStart=/bin/true\n[Install]\nWantedBy=almena.target\n"
WELL = {"ActiveState": "active", "NRestarts": "0", "Result": "success", "InvocationID": "a", "ConditionResult": "yes"}
SKIPPED = WELL | {"ActiveState": "inactive", "Result": "exec-condition", "InvocationID": ""}
SKIPPED_BEFORE_251 = WELL | {"ActiveState": "inactive", "InvocationID": "", "ConditionResult": "no"}


def _recipe(folder: Path, version: str, text: str = "") -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"almena-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("agent/__init__.py", f"__version__ = {version!r}{text}")
    return Recipe(wheel, ("cpu",))


def _made(places: Places, recipe: Recipe, **texts: str) -> str:
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


@pytest.fixture
def upgraded(tmp_path: Path) -> Places:
    return _upgraded(tmp_path)


def _upgraded(folder: Path) -> Places:
    """Two releases, of which the second runs; it has one unit more."""
    places = Places(folder / "image")
    old = _made(places, _recipe(folder / "wheels", "1.0"))
    new = _made(places, _recipe(folder / "wheels", "1.1"), extra=EXTRA)
    trial.switch(places, old, None, Plan(say=lambda _: None))
    trial.switch(places, new, old, Plan(say=lambda _: None))
    releases.point(places.previous, old)
    return places


def _units(places: Places) -> tuple[str, bool, bool]:
    """Whose uplink unit is there, whether the second release's own is, and whether that one starts at boot."""
    found = re.search(r"^Description=Almena: uplink of (\S+)$", (places.units / SERVICES[0]).read_text(), re.MULTILINE)
    assert found
    return (
        found[1],
        (places.units / "almena-extra.service").exists(),
        (places.units / "almena.target.wants/almena-extra.service").is_symlink(),
    )


def test_a_release_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    one = _recipe(tmp_path / "a", "1.0")
    assert one.name == _recipe(tmp_path / "b", "1.0").name
    assert one.name.startswith("1.0-")
    others = [_recipe(tmp_path / "c", "1.0", "#"), Recipe(one.wheel, ("cpu", "rtsp")), Recipe(one.wheel, ("cpu",), system_site=True)]
    assert len({one.name, *(other.name for other in others)}) == 4
    with pytest.raises(HostError, match="is no wheel of Almena"):
        releases.version_of(Path("numpy-2.0-py3-none-any.whl"))


def test_back_and_forward_again(upgraded: Places) -> None:
    new, old = str(releases.target(upgraded.current)), str(releases.target(upgraded.previous))
    assert _units(upgraded) == (new, True, True)
    said: list[str] = []
    host.rollback(upgraded, Plan(say=said.append))
    assert (releases.target(upgraded.current), releases.target(upgraded.previous)) == (old, new)
    assert _units(upgraded) == (old, False, False), "units belong to their release"
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
    assert _units(upgraded) == (new, True, True)
    shutil.rmtree(upgraded.releases / old)
    with pytest.raises(HostError, match="no other release"):
        host.rollback(upgraded, Plan())


def test_what_a_package_brings_stays_as_it_is(tmp_path: Path) -> None:
    """dpkg has put the new release's files to /usr/lib: where the old one runs, its own are in /etc, which holds."""
    places = Places(tmp_path / "image", packaged=True)
    places.at("/etc").mkdir(parents=True)
    old, new = (_made(places, _recipe(tmp_path / "wheels", version)) for version in ("1.0", "1.1"))
    for path, text in places.written(releases.texts_of(places, new)).items():
        places.brought(path).parent.mkdir(parents=True, exist_ok=True)
        places.brought(path).write_text(text)
        places.brought(path).chmod(0o755 if path.name == "almena" else 0o644)
    lib = {path: path.read_bytes() for path in places.at("/usr/lib").rglob("*") if path.is_file()}
    trial.switch(places, new, None, Plan(say=_quietly))
    releases.point(places.previous, old)
    units = {path.name for path in places.units.iterdir() if path.is_file() and not path.is_symlink()}
    assert units == set(), "nothing is written a second time"
    host.rollback(places, Plan(say=_quietly))
    assert f"uplink of {old}" in (places.units / SERVICES[0]).read_text()
    assert not (places.units / SERVICES[1]).exists(), "what is the same in both needs no other"
    host.rollback(places, Plan(say=_quietly))
    assert not (places.units / SERVICES[0]).exists()
    assert {path: path.read_bytes() for path in lib} == lib
    host.rollback(places, Plan(say=_quietly))
    host.uninstall(places, Plan(say=_quietly), purge=True)
    assert not [path for path in places.at("/etc").rglob("*almena*") if path.is_file()]


def test_only_the_last_one_is_kept(upgraded: Places, tmp_path: Path) -> None:
    _made(upgraded, _recipe(tmp_path / "wheels", "0.9"))
    releases.retire(upgraded)
    left = {folder.name.partition("-")[0] for folder in upgraded.releases.iterdir()}
    assert left == {"1.0", "1.1"}


def _systemd(
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


def _third(places: Places, folder: Path) -> Recipe:
    """A release that is made, and not yet switched to."""
    recipe = _recipe(folder / "wheels", "1.2")
    _made(places, recipe)
    return recipe


def _quietly(_: object) -> None:
    """Say it to nobody."""


@pytest.mark.parametrize("dicom", [SKIPPED, SKIPPED_BEFORE_251])
def test_an_upgrade_that_starts_stays(upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dicom: dict[str, str]) -> None:
    recipe, old = _third(upgraded, tmp_path), releases.target(upgraded.current)
    judged = partial(trial.judge, upgraded, Plan(say=_quietly), 5.0, 0.1)
    orders = _systemd(monkeypatch, lambda unit: dicom if "dicom" in unit else WELL, judged)
    said: list[str] = []
    host.install(upgraded, recipe, Plan(say=said.append))
    assert (releases.target(upgraded.current), releases.target(upgraded.previous)) == (recipe.name, old)
    assert (upgraded.trial.exists(), said[-1]) == (False, f"release {recipe.name} runs")
    assert _units(upgraded) == (recipe.name, False, False)
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
    recipe, old = _third(upgraded, tmp_path), str(releases.target(upgraded.current))

    def told(unit: str) -> dict[str, str]:
        return WELL | state if releases.target(upgraded.current) == recipe.name and "uplink" in unit else WELL

    def tried() -> None:
        with suppress(HostError):
            trial.judge(upgraded, Plan(say=_quietly), 0.5, 0.1)

    _systemd(monkeypatch, told, tried)
    with pytest.raises(HostError) as caught:
        host.install(upgraded, recipe, Plan(say=_quietly))
    text = str(caught.value)
    assert f"release {recipe.name} does not start, and {old} is back; that one runs" in text
    assert f"{SERVICES[0]}: {why}" in text
    assert "ModuleNotFoundError" in text
    assert (releases.target(upgraded.current), upgraded.trial.exists()) == (old, False)
    assert _units(upgraded) == (old, True, True), "its units are back with it"
    assert json.loads(upgraded.verdict.read_text())["kept"] is False


def test_a_process_that_starts_again_and_again_has_not_started(upgraded: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    lives = iter(range(1000))
    _systemd(monkeypatch, lambda _: WELL | {"InvocationID": str(next(lives))})
    assert "almena-vision.service: active" in service.trouble(SERVICES, 0.5, 0.2)


def test_a_systemd_that_breaks_off_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy or reloading: an upgrade is not given up for that."""
    troubles = [HostError("systemctl show failed with code 1:\n  Transport endpoint is not connected")] * (service.TRIES - 1)

    def run(_: list[str]) -> str:
        if troubles:
            raise troubles.pop()
        return "ActiveState=active\n"

    monkeypatch.setattr(service, "run", run)
    monkeypatch.setattr(service.time, "sleep", _quietly)
    assert service.state("almena-vision.service") == {"ActiveState": "active"}
    troubles += [HostError("Unit almena-vision.service not found.")]
    with pytest.raises(HostError, match="not found"):
        service.state("almena-vision.service")


def test_who_asked_for_an_upgrade_may_go(upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that drops in the trial, with whatever kills the process: the rest is systemd's, now or after a power cut."""
    recipe, old = _third(upgraded, tmp_path), str(releases.target(upgraded.current))

    def dropped() -> None:
        raise KeyboardInterrupt

    _systemd(monkeypatch, tried=dropped)
    with pytest.raises(KeyboardInterrupt):
        host.install(upgraded, recipe, Plan(say=_quietly))
    assert json.loads(upgraded.trial.read_text()) == {"before": old, "release": recipe.name, "starts": 0}
    with pytest.raises(HostError, match="an upgrade is on trial: wait for its end"):
        host.install(upgraded, recipe, Plan(say=_quietly))
    unit, path = own_texts()[TRIAL], own_texts()[TRIAL_PATH]
    assert f"PathExists=/{upgraded.trial.relative_to(upgraded.root)}" in path, "whoever is gone, systemd sees that there is a trial"
    assert f"ConditionPathExists=/{upgraded.trial.relative_to(upgraded.root)}" in unit
    assert "ExecStart=/opt/almena/previous/bin/python -m provisioning.host judge" in unit
    assert releases.target(upgraded.previous) == old
    trial.judge(upgraded, Plan(say=_quietly), 5.0, 0.1)
    assert (releases.target(upgraded.current), _units(upgraded)[0]) == (recipe.name, recipe.name)


def test_a_release_that_crashes_the_machine_is_not_tried_for_ever(
    upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, old = _third(upgraded, tmp_path), str(releases.target(upgraded.current))

    def crash() -> None:
        raise KeyboardInterrupt

    _systemd(monkeypatch, tried=crash)
    monkeypatch.setattr(service, "trouble", lambda *_: crash())
    with pytest.raises(KeyboardInterrupt):
        host.install(upgraded, recipe, Plan(say=_quietly))
    for _ in range(trial.STARTS):
        with pytest.raises(KeyboardInterrupt):
            trial.judge(upgraded, Plan(say=_quietly))
    monkeypatch.setattr(service, "trouble", lambda *_: "")
    with pytest.raises(HostError, match="was started again in its trial 2 times"):
        trial.judge(upgraded, Plan(say=_quietly))
    assert (releases.target(upgraded.current), _units(upgraded)[0], upgraded.trial.exists()) == (old, old, False)


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
    host.install(image, None, again := Plan(say=_quietly))
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
            host.rollback(upgraded, Plan(say=_quietly))

    host.uninstall(upgraded, Plan(say=say), purge=True)
    assert told[-1] == f"remove {upgraded.prefix}"
    assert not upgraded.prefix.exists()


@on_small_disk(4)
def test_no_room_and_a_disk_that_is_mounted_read_only(small_disk: Path, tmp_path: Path) -> None:
    places, recipe = Places(small_disk), _recipe(tmp_path / "wheels", "1.2")
    with pytest.raises(HostError, match=r"has 0\.0 GB free and 2\.1 GB are needed: make room. The release that runs stays"):
        releases.make(places, recipe)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        said = r"Read-only file system\): is the disk full or mounted read-only\? The release that runs stays"
        with pytest.raises(HostError, match=said):
            releases.make(places, recipe)
        with pytest.raises(HostError, match="Read-only file system"):
            host.install(places, recipe, Plan(say=_quietly))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert not list(places.releases.iterdir())


@on_small_disk(8)
def test_a_disk_that_is_full_before_the_trial(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was switched yet, and nothing is."""
    places = _upgraded(small_disk)
    recipe, old = _third(places, small_disk), str(releases.target(places.current))
    verdicts: list[str] = []

    def tried() -> None:
        fill(small_disk)
        with pytest.raises(HostError) as caught:
            trial.judge(places, Plan(say=_quietly), 5.0, 0.1)
        verdicts.append(str(caught.value))

    orders = _systemd(monkeypatch, tried=tried)
    with pytest.raises(HostError, match=f"{old} runs, and release {recipe.name} does not: `journalctl -u {TRIAL}` says why"):
        host.install(places, recipe, Plan(say=_quietly))
    why = "its trial cannot be noted (No space left on device): make room on the disk, and install it again"
    assert verdicts == [f"{old} runs on, and release {recipe.name} was not tried: {why}"]
    assert (releases.target(places.current), _units(places), places.trial.exists()) == (old, (old, True, True), False)
    assert "restart --no-block" not in orders, "what runs is left alone"
    (small_disk / "filler").unlink()
    _systemd(monkeypatch, tried=partial(trial.judge, places, Plan(say=_quietly), 5.0, 0.1))
    host.install(places, recipe, Plan(say=_quietly))
    assert releases.target(places.current) == recipe.name


@on_small_disk(8)
@pytest.mark.parametrize("starts", [True, False])
def test_a_disk_that_fills_in_the_trial(small_disk: Path, monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    """A release that does not start makes room for the one before, whose units have to be written again."""
    places = _upgraded(small_disk)
    recipe, old = _third(places, small_disk), str(releases.target(places.current))
    said: list[str] = []

    def trouble(*_: object) -> str:
        if releases.target(places.current) == old:
            return ""
        fill(small_disk)
        return "" if starts else "vision: no room for its engines"

    def tried() -> None:
        with suppress(HostError):
            trial.judge(places, Plan(say=said.append), 5.0, 0.1)

    _systemd(monkeypatch, tried=tried)
    monkeypatch.setattr(service, "trouble", trouble)
    if starts:
        host.install(places, recipe, Plan(say=said.append))
        assert f"{places.verdict} cannot be written (No space left on device): make room on the disk" in said
        assert said[-1] == f"release {recipe.name} runs"
    else:
        with pytest.raises(HostError, match=f"release {recipe.name} does not start, and {old} is back; that one runs.*\n.*no room for"):
            host.install(places, recipe, Plan(say=_quietly))
    runs = recipe.name if starts else old
    assert (releases.target(places.current), _units(places)[0], places.trial.exists()) == (runs, runs, False)


def test_what_pip_left_half_made_is_removed(upgraded: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _recipe(tmp_path / "wheels", "1.2")
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
