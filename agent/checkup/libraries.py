"""OpenCV and the inference runtimes: what is installed, what it can do, and packages that overwrite each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from importlib import import_module, metadata
from typing import Any

from agent.checkup import Check

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
OTHERS = ("tensorrt", "pycuda", "cuda-python", "tensorflow", "ai-edge-litert", "tflite-runtime", "av", "picamera2")

GSTREAMER_PROGRAMS = ("gst-launch-1.0", "gst-inspect-1.0")
GSTREAMER_ELEMENTS = ("videoconvert", "y4menc")
CSI_ELEMENT = "nvarguscamerasrc"
PROGRAM_TIMEOUT_S = 30.0
"""The first start after an installation looks through all plug-ins."""


def library_checks() -> list[Check]:
    """All of them."""
    return [opencv(), onnxruntime(), openvino(), others(), some_runtime()]


def opencv() -> Check:
    """Version, and how it reads cameras and files."""
    bad = Check("opencv", "fail", "", "pip install 'almena[cpu]', or the distribution's python3-opencv.")
    cv2 = _library("cv2", bad, OPENCV, "opencv-python-headless")
    if isinstance(cv2, Check):
        return cv2
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
    csi = "there" if _has_element(CSI_ELEMENT) else "not there (it is part of JetPack)"
    return Check("gstreamer", "ok", f"{version}; {CSI_ELEMENT} for CSI cameras: {csi}")


def onnxruntime() -> Check:
    """Version and execution providers."""
    bad = Check("onnxruntime", "warn", "", "pip install 'almena[cpu]' unless another runtime serves you.")
    module = _library("onnxruntime", bad, ONNXRUNTIME, "onnxruntime")
    if isinstance(module, Check):
        return module
    return Check("onnxruntime", "ok", f"{module.__version__}, {', '.join(module.get_available_providers())}")


def openvino() -> Check:
    """Version, devices and what they compute in."""
    bad = Check("openvino", "warn", "", "pip install 'almena[openvino]': on Intel processors it is the fastest.")
    module = _library("openvino", bad)
    if isinstance(module, Check):
        return module
    core = module.Core()
    version = module.__version__.split("-")[0]
    try:
        devices = [f"{name} ({', '.join(core.get_property(name, 'OPTIMIZATION_CAPABILITIES'))})" for name in core.available_devices]
    except RuntimeError as error:
        return Check(
            "openvino", "warn", f"{version}: a device cannot be asked: {error}", "Update its driver, or set engines.backend: onnxruntime."
        )
    return Check("openvino", "ok", f"{version}, {'; '.join(devices)}")


def others() -> Check:
    """Packages that are used where they are there; they are not loaded."""
    found = [f"{name} {version}" for name in OTHERS if (version := _version(name))]
    return Check("other runtimes", "ok", ", ".join(found) if found else "none")


def some_runtime() -> Check:
    """At least one backend of the agent must load."""
    usable = [name for name in ("onnxruntime", "openvino") if not isinstance(_import(name), Exception)]
    if not usable:
        return Check("runtime", "fail", "no inference runtime can be loaded", "pip install 'almena[cpu]' or 'almena[openvino]'.")
    return Check("runtime", "ok", f"usable: {', '.join(usable)}")


def _library(module: str, bad: Check, packages: tuple[str, ...] = (), keep: str = "") -> Any:
    """The module; or a Check: `packages` that overwrite each other, of which one is to `keep`, or `bad` with why it cannot be loaded."""
    there = [package for package in packages if _version(package)]
    if len(there) > 1:
        advice = f"They overwrite each other's files: pip uninstall -y {' '.join(there)} && pip install {keep} (or the one that you want)."
        return Check(bad.name, "fail", f"installed together: {', '.join(there)}", advice)
    found = _import(module)
    return replace(bad, text=str(found)) if isinstance(found, Exception) else found


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
