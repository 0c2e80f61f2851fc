"""NVIDIA's real Python packages, fetched from the package index by hash and unpacked beside each other, never installed.

TensorRT's bindings import on a machine without GPU where libraries of the names that they need are found: empty ones are compiled for it.
That shows every class, attribute and signature of a version, though nothing can be built or run with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from engines.files import replacing
from tests.waiting import alone

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

BINDINGS: dict[str, tuple[str, dict[str, str]]] = {
    "8.6.1": ("tensorrt-bindings", {
        "3.10": "6f9d26d5d8f6b87d62048c5ef4bb33b179cdf944d1b28480458d8c27d1e65456",
        "3.11": "705cfab5c60f0bed7d939559d880165a761bd9ac0f4203004948a760eef99838",
    }),
    "10.3.0": ("tensorrt-cu12-bindings", {
        "3.10": "1d6e4cf08ef1f54f6fd44a33cf6b253050af2fc6e9a1d92e40e1436a1d858eb0",
        "3.11": "59ace22d7f2ca1e9dcde2cb0cb5916912cb3cd5a9d72dd7852be0160d9b3a0ee",
        "3.12": "f5c2582aeaa7f5628d2c4d4148a701ebe97be78f7ff3b46a617f0ee0cb5460f2",
    }),
    "10.16.1.11": ("tensorrt-cu12-bindings", {
        "3.10": "c1b6a156db4eab526360f5dba375e5c33e1275e3f36b0a7d375febb3db6202fc",
        "3.11": "150ef2b672487e29a8ea916353467c3e199994fb33589167e3641a928e243aa7",
        "3.12": "8e339335e7255b3fb3954eca61b4acbbdfcf7b28505bd711914519647ba310c8",
        "3.13": "f2a08cedfa48e300720e5bed070a45e390ea67dbcf475ffce725d10e0a2b3ba7",
    }),
    "11.4.0.106": ("tensorrt-cu12-bindings", {
        "3.10": "d9f927d7337c360c3947d99fc0db17c3b3b935e677237f0475c7b054f28d2540",
        "3.11": "e2ab48f316bbff6a7a44a30e94a9ceb0d2cf6645ff39feadecfa68d7cb7a94bf",
        "3.12": "6490518c9e072d57e0a815ad80b103596933efe776ffa61766ef31c25dbd8b39",
        "3.13": "37bba007c65325087db7409d4ab48e460b4be4abcf99cb3e8b6979642f33c521",
    }),
}  # fmt: skip
"""TensorRT's bindings by version: package, and hash of its wheel by version of Python. They are for x86-64."""

VERSIONS = tuple(version for version, (_, hashes) in BINDINGS.items() if PYTHON in hashes)
"""Those that this Python can import."""

CUDA_PYTHON = {
    "12.9.9": {
        "3.10": "71e84bcdf477a989c31994023f353d6cbbb6d5cba58deab9bc5e7d961d8b832d",
        "3.11": "5fd8ab78c4ddd9a909fb4f1fa9a914d5e83e223b77320df63ddfe3c46e559337",
        "3.12": "fb842851be2ed9e80fce988dd68c8ea27a506a71e0e29d228b35cbd0a333dac2",
        "3.13": "d399447bf5d929d6f59ec4e2c7b26d11ef21e8be5e88995e41c705db1a7c1363",
    },
    "13.5.0": {
        "3.11": "08b7e8d674c3266facb00453a7e34ea7d3ea965c2f594bb728f269f45f39fbe2",
        "3.12": "a46a8cc84112d769d0f57bf3ae3fedc115cf09348f14da85a1a8200968b6f262",
        "3.13": "d47b6f6d0398f97c82e2525eefb02e7252848e48c902824f6a6b6467a5902894",
    },
}
PATHFINDER = "622df7440f7702f36b7a02a1699aa0b084fe04034d9939188fee9b16d0c36366"
CUDA_LIBRARY = {
    "nvidia-cuda-runtime-cu12==12.9.79": "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
    "nvidia-cuda-runtime==13.5.37": "df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d",
}

SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi", "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")

SURFACE = """
import inspect, json, sys
import tensorrt_bindings as trt

def kind(holder, name):
    try:
        value = getattr(holder, name)
    except Exception:
        return None
    static = inspect.getattr_static(holder, name)
    if isinstance(value, type):
        return {"kind": "class", **members(value)}
    if isinstance(static, property):
        return {"kind": "property", "writable": static.fset is not None}
    if callable(value):
        return {"kind": "method", "doc": value.__doc__ or ""}
    return {"kind": "enum", "value": int(value)} if isinstance(value, holder) else {"kind": "value"}

def members(holder):
    names = [name for name in dir(holder) if not name.startswith("_") or name == "__init__"]
    return {"members": {name: found for name in names if (found := kind(holder, name)) is not None}}

names = [name for name in dir(trt) if not name.startswith("_")]
classes = {name: members(getattr(trt, name)) for name in names if isinstance(getattr(trt, name), type)}
json.dump({"version": trt.__version__, "classes": classes, "functions": [n for n in names if callable(getattr(trt, n))]}, sys.stdout)
"""


def unpacked(requirement: str, sha256: str, cache_dir: Path) -> Path:
    """A folder with the files of that wheel, fetched if it is not there yet."""
    folder = cache_dir / "nvidia" / requirement.replace("==", "-")
    with alone(folder.parent):
        if not folder.is_dir():
            _fetch(requirement, sha256, folder)
    return folder


def _fetch(requirement: str, sha256: str, folder: Path) -> None:
    wheels = folder.parent / "wheels"
    wheels.mkdir(exist_ok=True)
    wanted = wheels / f"{folder.name}.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--disable-pip-version-check",
        "--dest",
        str(wheels / folder.name),
    ]
    subprocess.run([*command, "--requirement", str(wanted)], check=True, timeout=300)
    (wheel,) = (wheels / folder.name).glob("*.whl")
    with replacing(folder) as made, zipfile.ZipFile(wheel) as archive:
        archive.extractall(made)


def stubs(major: str, cache_dir: Path) -> Path:
    """A folder with empty libraries of the names that TensorRT's bindings of a major version need."""
    folder = cache_dir / "nvidia" / f"stubs-{major}"
    with alone(folder.parent):
        if not folder.is_dir():
            with replacing(folder) as made:
                _compile(made, major)
    return folder


def _compile(folder: Path, major: str) -> None:
    folder.mkdir()
    (folder / "empty.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for library in LIBRARIES:
        file = f"lib{library}.so.{major}"
        subprocess.run(["gcc", "-shared", "-fPIC", "empty.c", "-o", file, f"-Wl,-soname,{file}"], cwd=folder, check=True, timeout=60)


def bindings(version: str, cache_dir: Path, program: str) -> str:
    """What `program` prints where `tensorrt_bindings` of that version can be imported."""
    package, hashes = BINDINGS[version]
    folder = unpacked(f"{package}=={version}", hashes[PYTHON], cache_dir)
    env = {**os.environ, "LD_LIBRARY_PATH": str(stubs(version.partition(".")[0], cache_dir)), "PYTHONPATH": str(folder)}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def surface(version: str, cache_dir: Path) -> dict[str, Any]:
    """Every class of those bindings with its members: methods with their signatures, properties, numbers of enumerations."""
    kept = cache_dir / "nvidia" / f"surface-{version}-{PYTHON}.json"
    if not kept.is_file():
        text = bindings(version, cache_dir, SURFACE)
        with replacing(kept) as made:
            made.write_text(text)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found
