"""OpenCV and smaller libraries: what is installed, what it can do, and packages that overwrite each other."""

from __future__ import annotations

import re
from importlib import import_module, metadata
from typing import Any

from agent.checkup import Check

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
OTHERS = ("cuda-python", "onnx", "nncf", "tf2onnx", "av", "picamera2", "jetson-stats")


def library_checks() -> list[Check]:
    """All of them."""
    return [opencv(), others()]


def opencv() -> Check:
    """Version, and how it reads cameras and files."""
    found = doubled("opencv", OPENCV, "opencv-python-headless")
    if found:
        return found
    cv2 = _import("cv2")
    if isinstance(cv2, Exception):
        return Check("opencv", "fail", str(cv2), "pip install 'almena[cpu]', or the distribution's python3-opencv.")
    build = cv2.getBuildInformation()
    has = {name: bool(re.search(rf"^\s*{name}:\s+YES", build, re.MULTILINE)) for name in ("GStreamer", "FFMPEG")}
    text = f"{cv2.__version__}, " + ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in has.items())
    return Check("opencv", "ok", text)


def others() -> Check:
    """Packages that are used where they are there; they are not loaded."""
    found = [f"{name} {version}" for name in OTHERS if (version := _version(name))]
    return Check("other libraries", "ok", ", ".join(found) if found else "none")


def doubled(name: str, packages: tuple[str, ...], keep: str) -> Check | None:
    """A failure where more than one of `packages`, which bring the same module, is installed."""
    there = [package for package in packages if _version(package)]
    if len(there) < 2:
        return None
    advice = f"They overwrite each other's files: pip uninstall -y {' '.join(there)} && pip install {keep} (or the one that you want)."
    return Check(name, "fail", f"installed together: {', '.join(there)}", advice)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _import(name: str) -> Any:
    """The module, or why it cannot be loaded."""
    try:
        return import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises while it loads becomes the finding
        return error
