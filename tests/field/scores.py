"""How open the units are, by systemd-analyze security: lower is better."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HIGHEST = {"almena-uplink": 1.3, "almena-dicom": 1.3, "almena-hub": 1.3, "almena-enrol": 1.3, "almena-vision": 1.8}
"""What is allowed. almena-trial changes the system, and is not bound by this."""


def scored(unit: Path) -> tuple[float, str]:
    """The score of a unit's file, and the line that tells it."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+).*", said)
    assert found, said
    return float(found[1]), found[0]


def above(scores: dict[str, float]) -> list[str]:
    """Which units are more open than is allowed, or have no score."""
    return [
        f"{name}: {scores.get(name)}, allowed is {highest}" for name, highest in HIGHEST.items() if not scores.get(name, 10.0) <= highest
    ]
