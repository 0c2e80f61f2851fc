"""What `almena demo-xray` needs: public radiographs, a password for the worklist, and a settings file."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import yaml

from agent.demo import HEADER
from agent.home import free_port

CHEST, LEG = "chest-radiograph", "leg-radiograph"
USER = "demo"
CLINIC = "CLINIC"
KEEP_H = 24


def prepare(folder: Path) -> Path:
    """Fetch what is not there and write the settings file of a start; its path. Raises EngineError, OSError."""
    from agent.commands.models import progress_bars
    from engines.fetch import assets, ensure_asset

    models = folder / "models"
    if not all((models / assets()[name].filename).exists() for name in (CHEST, LEG)):
        print("Fetching two public radiographs (once, about 60 MB; each is checked against its SHA-256):", file=sys.stderr)
        with progress_bars() as progress:
            for name in (CHEST, LEG):
                ensure_asset(name, models, progress)
    (folder / "results").mkdir(exist_ok=True)
    settings = folder / "demo-xray.yaml"
    settings.write_text(HEADER.replace("almena demo", "almena demo-xray") + yaml.safe_dump(_content(folder), sort_keys=False))
    return settings


def _content(folder: Path) -> dict[str, Any]:
    from agent.http.passwords import hash_password

    return {
        "device": {"name": "demo-xray"},
        "state_dir": str(folder / "state"),
        "engines": {"models_dir": str(folder / "models"), "precision": "fp32"},
        "streams": [{"name": "xray", "source": {"type": "dicom"}, "tasks": [{"type": "study"}]}],
        "dicom": {
            "receiver": {"port": free_port(11112)},
            "destination": {"host": "127.0.0.1", "port": free_port(11113), "ae_title": CLINIC, "first_retry_s": 1.0},
            "keep_h": KEEP_H,
        },
        "mqtt": {"embedded_broker": True, "port": free_port(1883), "delivery": "broker"},
        "web": {"port": free_port(8642), "login": {"username": USER, "password_hash": hash_password(password(folder))}},
    }


def password(folder: Path) -> str:
    """For the worklist; drawn at the first start."""
    file = folder / "password.txt"
    if not file.exists():
        file.touch(0o600)
        file.write_text(secrets.token_urlsafe(9) + "\n")
    return file.read_text().strip()
