"""How a broker is told of a revocation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioning.errors import FleetError
from provisioning.revocation import reload_by

pytestmark = pytest.mark.unit

NOBODY = 65534


def test_the_command_runs_as_whoever_could_have_written_it(tmp_path: Path) -> None:
    settings = tmp_path / "fleet.yaml"
    settings.touch()
    owner = os.geteuid()
    if owner == 0:
        owner = NOBODY
        os.chown(settings, owner, owner)
    reload_by(("sh", "-c", f"test $(id -u) = {owner}"), settings, tmp_path)()
    with pytest.raises(FleetError, match=r"broker\.reload in fleet\.yaml failed"):
        reload_by(("sh", "-c", f"test $(id -u) != {owner}"), settings, tmp_path)()
