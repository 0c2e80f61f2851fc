"""Conversions by TensorFlow's own tools, in a process of their own: its memory is given back, and its crash is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from engines.errors import EngineError, MissingRuntimeError, ModelFileError

NEEDED = {"tensorflow": "almena[tensorflow]", "tf2onnx": "almena[tensorflow]"}

ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF2ONNX_CATCH_ERRORS": "FALSE",
}  # fmt: skip
"""Of the child. tf2onnx copies the whole graph, weights included, before each of its many optimisations, so as to leave out one that
fails; it is told not to."""


class _ByTensorFlow:
    """`action` names a function of `tensorflow_worker`."""

    action: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("tensorflow",)

    def convert(self, source: Path, target: Path) -> None:
        """Write `target`. Raises ModelFileError, MissingRuntimeError."""
        call(self.action, self.needs, source, target)


class SavedModelFromKeras(_ByTensorFlow):
    """`model.export`: the inference signature of a .keras file, batch free."""

    action = "savedmodel_from_keras"


class OnnxFromSavedModel(_ByTensorFlow):
    """tf2onnx, opset 17."""

    action = "onnx_from_savedmodel"
    needs = ("tensorflow", "tf2onnx")


class OnnxFromTflite(_ByTensorFlow):
    """tf2onnx, opset 17."""

    action = "onnx_from_tflite"
    needs = ("tensorflow", "tf2onnx")


class TfliteFromSavedModel(_ByTensorFlow):
    """TensorFlow's TFLiteConverter, in float32."""

    action = "tflite_from_savedmodel"


def call(action: str, needs: tuple[str, ...], source: Path, *more: Path) -> Any:
    """Run one function of `tensorflow_worker` in a child process, which ends with this one, and give what it returns.

    Raises ModelFileError with what TensorFlow said, MissingRuntimeError where a package of `needs` is not installed.
    """
    for module in needs:
        if find_spec(module) is None:
            raise MissingRuntimeError(
                f"{source.name}: its conversion needs {module}, which is not installed: pip install '{NEEDED[module]}'"
            )
    command = [sys.executable, "-m", "engines.convert.tensorflow_worker", action, *(str(path.resolve()) for path in (source, *more))]
    environment = {**os.environ, **ENVIRONMENT}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as noise,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True, errors="replace", env=environment
        ) as child,
    ):
        assert child.stdout is not None
        try:
            said = child.stdout.read()
            code = child.wait()
        except BaseException:
            child.kill()
            raise
        noise.seek(0)
        end = " ".join(noise.read().split())[-300:]
    answers = [line for line in said.splitlines() if line.startswith('{"almena":')]
    answer = json.loads(answers[-1]) if answers else {}
    if code == 0 and "result" in answer:
        return answer["result"]
    if "wrong" in answer:
        raise ModelFileError(f"{source.name}: {answer['wrong']}")
    raise EngineError(f"{source.name}: TensorFlow's process ended with code {code} during {action}: {end}; try again with more memory free")
