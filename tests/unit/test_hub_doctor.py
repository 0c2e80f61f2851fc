"""`almena hub doctor`: settings and certificates of a hub that does not run."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fleet.command_hub import app
from provisioning.ca import Authority
from tests.fakes.ports import free_port

pytestmark = pytest.mark.unit


def _asked(config: Path) -> dict[str, dict[str, str]]:
    """What it says by name; something is always wrong here."""
    done = CliRunner().invoke(app, ["--config", str(config), "doctor", "--json"])
    assert done.exit_code == 1, done.output
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_what_ends_soon_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    authority = Authority.new("Almena fleet")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "hub.pem").write_bytes(authority.client("hub", timedelta(days=20)).pem)
    tls = {"ca_file": str(tmp_path / "ca.pem"), "cert_file": str(tmp_path / "hub.pem"), "key_file": str(tmp_path / "hub.pem")}
    config = tmp_path / "hub.yaml"
    config.write_text(yaml.safe_dump({"store": "sqlite:///hub.sqlite", "broker": {"tls": tls}, "web": {"port": free_port()}}))
    said = _asked(config)
    assert said["certificate broker.tls.ca_file"]["state"] == "ok"
    client = said["certificate broker.tls.cert_file"]
    assert (client["state"], "almena fleet broker-config" in client["advice"]) == ("warn", True)
    assert (said["settings"]["state"], said["hub"]["state"]) == ("ok", "fail")
    config.write_text("storre: x\n")
    assert "storre" in _asked(config)["settings"]["text"]
