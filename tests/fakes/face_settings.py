"""Settings of an agent that recognises faces with the engines that earlier sessions have built."""

from __future__ import annotations

from pathlib import Path

from agent.settings import Settings


def face_settings(folder: Path, models_dir: Path, engines_dir: Path) -> Settings:
    """The state lies in `folder`/state, and only its engines elsewhere."""
    engines_dir.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    (folder / "state" / "engines").symlink_to(engines_dir)
    return Settings.model_validate({"state_dir": folder / "state", "engines": {"models_dir": models_dir}})
