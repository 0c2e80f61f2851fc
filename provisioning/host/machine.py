"""What an environment needs on this kind of machine."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kit:
    """Extras of the environment, whether it sees the distribution's Python packages, and further requirements."""

    extras: tuple[str, ...]
    system_site: bool = False
    also: tuple[str, ...] = ()


def kit(root: Path = Path("/"), machine: str = platform.machine()) -> Kit:
    """Jetson: TensorRT comes with JetPack, and cuda-python must be of its CUDA. x86-64: OpenVINO is the fastest. Else ONNX Runtime."""
    release = root / "etc/nv_tegra_release"
    tegra = re.search(r"R(\d+) \(release\)", release.read_text(errors="replace")) if release.is_file() else None
    if tegra:
        return Kit(("cpu", "convert", "rtsp", "tensorrt"), system_site=True, also=("cuda-python>=12,<13",) if int(tegra[1]) < 38 else ())
    return Kit(("cpu", "convert", "rtsp", *(("openvino",) if machine == "x86_64" else ())))
