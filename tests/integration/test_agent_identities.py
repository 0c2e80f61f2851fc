"""`almena identity` beside a running agent: real processes that have one gallery open."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.whole_site import Site
from tests.waiting import wait_until


def identity(site: Site, *arguments: str) -> None:
    command = [sys.executable, "-m", "agent.cli", "identity", *arguments, "--config", str(site.config)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def seen(site: Site) -> list[str | None]:
    """The names of all faces, in the order in which they were seen."""
    rows = sorted((row for row in site.stored() if row["kind"] == "face"), key=lambda row: int(str(row["seq"])))
    return [row["data"]["name"] for row in rows]  # type: ignore[index]


def shown(site: Site, photograph: Path) -> str | None:
    """Whom the agent takes a photograph for. Each time its file is a byte longer, for a file that was there before adds no event."""
    count = len(seen(site))
    part = site.inbox / f"{count}.part"
    part.write_bytes(photograph.read_bytes() + bytes(count))
    part.replace(site.inbox / f"{count}{photograph.suffix}")
    wait_until(lambda: len(seen(site)) > count, 60, "the face")
    return seen(site)[-1]


def test_what_a_command_changes_holds_in_the_running_agent(
    tmp_path: Path, models_dir: Path, engines_dir: Path, portraits: Mapping[str, Path]
) -> None:
    grace, eileen = portraits["grace-hopper"], portraits["astronaut"]
    site = Site(tmp_path, models_dir, engines_dir)
    try:
        assert shown(site, grace) is None
        identity(site, "list")
        identity(site, "add", "Grace", str(grace), "--consent", "public domain")
        wait_until(lambda: shown(site, grace) == "Grace", 30, "the agent to know her")
        identity(site, "add", "Eileen", str(eileen), "--consent", "public domain")
        identity(site, "erase", "Grace", "--yes")
        wait_until(lambda: shown(site, grace) is None, 30, "the agent to forget her")
        assert shown(site, eileen) == "Eileen"
        site.kill("vision")
        assert (shown(site, grace), shown(site, eileen)) == (None, "Eileen")
        gallery = next(site.state.rglob("gallery.sqlite"))
        assert site.sql(gallery, "PRAGMA integrity_check") == [("ok",)]
    finally:
        site.close()
