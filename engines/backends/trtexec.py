"""TensorRT's own benchmark, where it is installed: an independent look at what an engine should reach."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engines.backends.base import IMAGE, Build
from engines.errors import EngineError

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
FLAGS = {"fp16": ("--fp16",), "bf16": ("--bf16",), "int8": ("--int8", "--fp16")}
LIMIT_S = 1800


@dataclass(frozen=True, slots=True)
class Figures:
    """What trtexec measured: calls a second; milliseconds of a call with its copies, and of the GPU's work alone, median and p99."""

    calls_per_second: float
    latency_ms: float
    latency_p99_ms: float
    gpu_ms: float
    gpu_p99_ms: float


def find() -> Path | None:
    """Where trtexec is; None where it is not installed."""
    found = shutil.which("trtexec") or next((place for place in PLACES if Path(place).is_file()), None)
    return Path(found) if found else None


def command(program: Path, build: Build, model: Path, weakly_typed: bool) -> list[str]:
    """The same build as ours: precision by flags, or by the types in `model`; DLA with GPU fallback; as many streams."""
    words = [str(program), f"--onnx={model}", f"--infStreams={build.streams or 1}", "--percentile=99", "--useCudaGraph"]
    if weakly_typed:
        words += [*FLAGS.get(build.precision, ()), *(["--noTF32"] if build.precision == "fp32" else [])]
    elif build.precision != "fp32":
        words.append("--stronglyTyped")
    if build.unit != "gpu":
        words += [f"--useDLACore={build.unit.removeprefix('dla')}", "--allowGPUFallback"]
    if build.least is not None:
        shape = f"{build.height}x{build.width}x{build.input.channels}"
        bounds = {"min": build.least, "opt": build.batch, "max": build.batch}
        words += [f"--{name}Shapes={IMAGE}:{count}x{shape}" for name, count in bounds.items()]
    return words


def figures(text: str) -> Figures:
    """What trtexec prints in its performance summary. Raises ValueError where there is none."""
    throughput = re.search(r"Throughput: ([\d.e+]+) qps", text)
    if throughput is None:
        raise ValueError("no performance summary")
    return Figures(float(throughput[1]), *_times(text, r"(?<!Host )Latency"), *_times(text, "GPU Compute Time"))


def measure(program: Path, build: Build, content: bytes, weakly_typed: bool) -> Figures:
    """Build and run the ONNX file `content` with trtexec. Raises EngineError."""
    with tempfile.TemporaryDirectory(prefix="almena-trtexec-") as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(content)
        words = command(program, build, model, weakly_typed)
        try:
            result = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=True)
            return figures(result.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            said = getattr(error, "stdout", None) or str(error)
            told = [line for line in str(said).splitlines() if "[E]" in line] or [str(error)]
            raise EngineError(f"{build.name}: trtexec gives no figures: {' '.join(told)[:400]}") from error


def _times(text: str, what: str) -> tuple[float, float]:
    found = re.search(rf"\b{what}: min = .*?median = ([\d.e+-]+) ms.*?percentile\(99%\) = ([\d.e+-]+) ms", text)
    if found is None:
        raise ValueError(f"no line for {what}")
    return float(found[1]), float(found[2])
