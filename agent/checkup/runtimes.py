"""The inference runtimes: for each backend whether it is here, what it computes on and in, what does not work and why."""

from __future__ import annotations

import platform
from importlib.util import find_spec

from agent.checkup import Check
from agent.checkup.libraries import doubled
from engines.backends.base import Backend
from engines.backends.cuda import gpus
from engines.registry import BACKENDS, MODULES, resolve

SAME = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn"),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-aarch64"),
}
"""Packages that bring the same module and overwrite each other's files; the first is the one to keep."""
ADVICE = {
    "openvino": "pip install 'almena[openvino]': on Intel processors it is the fastest.",
    "onnxruntime": "pip install 'almena[cpu]', or 'almena[gpu]' for an NVIDIA GPU in a PC.",
    "tensorrt": "pip install 'almena[tensorrt]'; on a Jetson it comes with JetPack: make the environment with --system-site-packages.",
    "litert": "pip install 'almena[litert]'.",
    "tensorflow": "pip install 'almena[tensorflow]': for SavedModels and for comparisons.",
}


def runtime_checks() -> list[Check]:
    """One for each backend, and whether any of them can be used."""
    checks = [runtime(name) for name in BACKENDS]
    usable = [check.name for check in checks if check.state == "ok" and check.text != "not installed"]
    if not usable:
        return [*checks, Check("inference", "fail", "no runtime can be used", "pip install 'almena[cpu]' or 'almena[openvino]'.")]
    return [*checks, Check("inference", "ok", f"usable: {', '.join(usable)}")]


def runtime(name: str) -> Check:
    """One backend."""
    packages = SAME.get(name, ())
    if packages and (twice := doubled(name, packages, packages[0])):
        return twice
    advice = ADVICE.get(name, "")
    if find_spec(MODULES[name]) is None:
        return Check(name, "warn" if _of_use(name) else "ok", "not installed", advice)
    try:
        backend: Backend = resolve(BACKENDS, name, "backend")()
        text, usable = _told(backend)
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises while it loads becomes the finding
        return Check(name, "warn", " ".join(str(error).split()), f"If you want to use it: {advice}")
    return Check(name, "ok" if usable else "warn", text, "" if usable else f"Uninstall it, or give it a device: {advice}")


def _told(backend: Backend) -> tuple[str, bool]:
    """Version, units and precisions in a line, and whether there is any unit."""
    units = [f"{unit} ({backend.device(unit)}) in {', '.join(backend.precisions(unit))}" for unit in backend.units()]
    missing = [f"no {unit}: {why}" for unit, why in backend.missing().items()]
    return f"{backend.version().partition('-')[0]}: {'; '.join([*(units or ['nothing to run on']), *missing])}", bool(units)


def _of_use(name: str) -> bool:
    """Whether this machine would run faster with it."""
    return {"openvino": platform.machine() in ("x86_64", "AMD64"), "tensorrt": bool(gpus())}.get(name, False)
