"""OpenCV and smaller libraries: what is installed, what it can do, and packages that overwrite each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module, metadata
from typing import Any

from agent.checkup import Check

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
OTHERS = ("cuda-python", "onnx", "tf2onnx", "av", "picamera2", "jetson-stats")

GSTREAMER_PROGRAMS = ("gst-launch-1.0", "gst-inspect-1.0")
GSTREAMER_ELEMENTS = ("videoconvert", "y4menc")
CSI_ELEMENTS = {"nvarguscamerasrc": "JetPack", "libcamerasrc": "gstreamer1.0-libcamera"}
"""Those that read CSI cameras, and what brings them."""
PROGRAM_TIMEOUT_S = 30.0
"""The first start after an installation looks through all plug-ins."""


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
    ffmpeg = re.search(r"^\s*FFMPEG:\s+YES", cv2.getBuildInformation(), re.MULTILINE)
    return Check("opencv", "ok", f"{cv2.__version__}, FFMPEG {'yes' if ffmpeg else 'no'}")


def gstreamer(wanted: bool) -> Check:
    """The programs and elements that sources of type gstreamer run, which `wanted` says are in the settings."""
    missing = [program for program in GSTREAMER_PROGRAMS if not shutil.which(program)]
    if not missing:
        missing = [element for element in GSTREAMER_ELEMENTS if not _has_element(element)]
    if missing:
        advice = "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
        text = f"not there: {', '.join(missing)}"
        return Check("gstreamer", "fail", text, advice) if wanted else Check("gstreamer", "ok", f"{text}; no stream here needs it")
    version = (_run("gst-launch-1.0", "--version") or "unknown version").partition("\n")[0].removeprefix("gst-launch-1.0 version ")
    there = [element for element in CSI_ELEMENTS if _has_element(element)]
    neither = " nor ".join(f"{element} ({origin})" for element, origin in CSI_ELEMENTS.items())
    return Check("gstreamer", "ok", f"{version}; for CSI cameras: {', '.join(there) or f'neither {neither}'}")


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


def _has_element(name: str) -> bool:
    return _run("gst-inspect-1.0", "--exists", name) is not None


def _run(*command: str) -> str | None:
    """What a program prints; None if it fails or does not end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


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
