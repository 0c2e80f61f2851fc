"""OpenCV and the inference runtimes: what is installed, what it can do, and packages that overwrite each other."""

from __future__ import annotations

import re
from importlib import import_module, metadata
from typing import Any

from agent.checkup import Check

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
OTHERS = ("tensorrt", "pycuda", "cuda-python", "tensorflow", "ai-edge-litert", "tflite-runtime", "av", "picamera2")


def library_checks() -> list[Check]:
    """All of them."""
    return [opencv(), onnxruntime(), openvino(), others(), some_runtime()]


def opencv() -> Check:
    """Version, and how it reads cameras and files."""
    doubled = _doubled("opencv", OPENCV, "opencv-python-headless")
    if doubled:
        return doubled
    cv2 = _import("cv2")
    if isinstance(cv2, Exception):
        return Check("opencv", "fail", str(cv2), "pip install 'almena[cpu]', or the distribution's python3-opencv.")
    build = cv2.getBuildInformation()
    has = {name: bool(re.search(rf"^\s*{name}:\s+YES", build, re.MULTILINE)) for name in ("GStreamer", "FFMPEG")}
    text = f"{cv2.__version__}, " + ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in has.items())
    return Check("opencv", "ok", text)


def onnxruntime() -> Check:
    """Version and execution providers."""
    doubled = _doubled("onnxruntime", ONNXRUNTIME, "onnxruntime")
    if doubled:
        return doubled
    module = _import("onnxruntime")
    if isinstance(module, Exception):
        return Check("onnxruntime", "warn", str(module), "pip install 'almena[cpu]' unless another runtime serves you.")
    return Check("onnxruntime", "ok", f"{module.__version__}, {', '.join(module.get_available_providers())}")


def openvino() -> Check:
    """Version, devices and what they compute in."""
    module = _import("openvino")
    if isinstance(module, Exception):
        return Check("openvino", "warn", str(module), "pip install 'almena[openvino]': on Intel processors it is the fastest.")
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


def _doubled(name: str, packages: tuple[str, ...], keep: str) -> Check | None:
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
