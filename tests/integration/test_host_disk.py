"""Releases on a disk that is full, fills up or is mounted read-only."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from provisioning.host import install as host
from provisioning.host import releases, service, trial
from provisioning.host.places import TRIAL, Places
from provisioning.host.plan import HostError, Plan
from tests.fakes.host_releases import a_recipe, quietly, stand_in_systemd, third_release, two_releases, units_of
from tests.fakes.small_disk import fill, on_small_disk


@on_small_disk(4)
def test_no_room_and_a_disk_that_is_mounted_read_only(small_disk: Path, tmp_path: Path) -> None:
    places, recipe = Places(small_disk), a_recipe(tmp_path / "wheels", "1.2")
    with pytest.raises(HostError, match=r"has 0\.0 GB free and 2\.1 GB are needed: make room. The release that runs stays"):
        releases.make(places, recipe)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        said = r"Read-only file system\): is the disk full or mounted read-only\? The release that runs stays"
        with pytest.raises(HostError, match=said):
            releases.make(places, recipe)
        with pytest.raises(HostError, match="Read-only file system"):
            host.install(places, recipe, Plan(say=quietly))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert not list(places.releases.iterdir())


@on_small_disk(8)
def test_a_disk_that_is_full_before_the_trial(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was switched yet, and nothing is."""
    places = two_releases(small_disk)
    recipe, old = third_release(places, small_disk), str(releases.target(places.current))
    verdicts: list[str] = []

    def tried() -> None:
        fill(small_disk)
        with pytest.raises(HostError) as caught:
            trial.judge(places, Plan(say=quietly), 5.0, 0.1)
        verdicts.append(str(caught.value))

    orders = stand_in_systemd(monkeypatch, tried=tried)
    with pytest.raises(HostError, match=f"{old} runs, and release {recipe.name} does not: `journalctl -u {TRIAL}` says why"):
        host.install(places, recipe, Plan(say=quietly))
    why = "its trial cannot be noted (No space left on device): make room on the disk, and install it again"
    assert verdicts == [f"{old} runs on, and release {recipe.name} was not tried: {why}"]
    assert (releases.target(places.current), units_of(places), places.trial.exists()) == (old, (old, True, True), False)
    assert "restart --no-block" not in orders, "what runs is left alone"
    (small_disk / "filler").unlink()
    stand_in_systemd(monkeypatch, tried=partial(trial.judge, places, Plan(say=quietly), 5.0, 0.1))
    host.install(places, recipe, Plan(say=quietly))
    assert releases.target(places.current) == recipe.name


@on_small_disk(8)
@pytest.mark.parametrize("starts", [True, False])
def test_a_disk_that_fills_in_the_trial(small_disk: Path, monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    """A release that does not start makes room for the one before, whose units have to be written again."""
    places = two_releases(small_disk)
    recipe, old = third_release(places, small_disk), str(releases.target(places.current))
    said: list[str] = []

    def trouble(*_: object) -> str:
        if releases.target(places.current) == old:
            return ""
        fill(small_disk)
        return "" if starts else "vision: no room for its engines"

    def tried() -> None:
        with suppress(HostError):
            trial.judge(places, Plan(say=said.append), 5.0, 0.1)

    stand_in_systemd(monkeypatch, tried=tried)
    monkeypatch.setattr(service, "trouble", trouble)
    if starts:
        host.install(places, recipe, Plan(say=said.append))
        assert f"{places.verdict} cannot be written (No space left on device): make room on the disk" in said
        assert said[-1] == f"release {recipe.name} runs"
    else:
        with pytest.raises(HostError, match=f"release {recipe.name} does not start, and {old} is back; that one runs.*\n.*no room for"):
            host.install(places, recipe, Plan(say=quietly))
    runs = recipe.name if starts else old
    assert (releases.target(places.current), units_of(places)[0], places.trial.exists()) == (runs, runs, False)
