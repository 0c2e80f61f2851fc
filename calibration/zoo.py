"""The models that benchmarks compare: Keras architectures with seeded weights, made on this machine when they are first asked for."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml

from engines.card import ModelCard, card, parsed
from engines.card import names as catalog
from engines.errors import EngineError, MissingRuntimeError
from engines.fetch import Progress, quiet
from engines.files import replacing, sha256
from engines.registry import unknown

log = logging.getLogger(__name__)

VERSION = "2"
"""Grows when what is made changes."""
LONGEST_S = 1200.0
ONE = (1.0,)
CAFFE = (103.939, 116.779, 123.68)
CENTRED = (127.5,)


@dataclass(frozen=True, slots=True)
class Spec:
    """One model of the bench. `keras`: the function in keras.applications; empty: the grey CNN. `top`: its own head, else average pooling
    and a dense layer, whose first class is the positive one."""

    title: str
    keras: str
    side: int
    colour: Literal["RGB", "BGR", "GREY"]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    classes: int
    top: bool = True


SPECS = {
    "grey-cnn": Spec("CNN for 128x128 grey pictures: 3x3 convolutions 32-64-128, dense 128, a logit", "", 128, "GREY", (0.0,), (255.0,), 2),
    "resnet-50": Spec("ResNet-50", "ResNet50", 224, "BGR", CAFFE, ONE, 1000),
    "vgg-16": Spec("VGG-16", "VGG16", 224, "BGR", CAFFE, ONE, 1000),
    "vgg-16-chest": Spec("VGG-16 with a small head for three classes", "VGG16", 224, "BGR", CAFFE, ONE, 3, top=False),
    "mobilenet-v2": Spec("MobileNetV2", "MobileNetV2", 224, "RGB", CENTRED, CENTRED, 1000),
    "efficientnet-b0": Spec("EfficientNet-B0", "EfficientNetB0", 224, "RGB", (0.0,), ONE, 1000),
}
"""By name. Input normalisation is that of `keras.applications`; EfficientNet has its own in the graph."""


def ensure_zoo(names: Sequence[str], models_dir: Path, progress: Progress = quiet) -> dict[str, str]:
    """Card names for `engines.card.card` of those models, made in `models_dir` where they are not there yet.

    Raises MissingRuntimeError without TensorFlow, and EngineError where a model cannot be made.
    """
    cards = {}
    for name in names:
        path = models_dir / f"{name}.yaml"
        made = _made(path)
        if made is None:
            progress(f"making {name}", 0, None)
            _make(name, models_dir, path)
            progress(f"making {name}", 1, 1)
        elif made != (wanted := _card(name, made["sha256"])):
            _write(path, wanted)
        cards[name] = str(path)
    return cards


def cards_of(names: Sequence[str], models_dir: Path, progress: Progress = quiet) -> list[ModelCard]:
    """The cards of those names, as `paths_of` takes them."""
    found = zip(names, paths_of(names, models_dir, progress), strict=True)
    return [card(path).typed(name) for name, path in found]


def paths_of(names: Sequence[str], models_dir: Path, progress: Progress = quiet) -> list[str]:
    """What `engines.card.card` takes for those names, of the bench, of the catalog, or paths of card files; those of the bench are made.

    Raises UnknownNameError before any is made.
    """
    known = [*catalog(), *SPECS]
    for name in names:
        if name not in known and not name.endswith((".yaml", ".yml")):
            raise unknown(name, known, "model card")
    made = ensure_zoo([name for name in names if name in SPECS], models_dir, progress)
    return [made.get(name, name) for name in names]


def _made(path: Path) -> dict[str, Any] | None:
    """The card, where the model is there in this version."""
    if not path.is_file() or not path.with_suffix("").is_dir():
        return None
    content = parsed(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) and content.get("version") == VERSION else None


def _make(name: str, models_dir: Path, path: Path) -> None:
    if find_spec("tensorflow") is None:
        raise MissingRuntimeError(f"{name} is made with TensorFlow, which is not installed: pip install 'almena[tensorflow]'")
    log.info("%s is made in %s", name, models_dir)
    path.unlink(missing_ok=True)
    folder = models_dir / name
    if folder.exists():
        shutil.rmtree(folder)
    with replacing(folder) as temporary:
        _run(name, temporary)
    _write(path, _card(name, sha256(folder)))


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _run(name: str, folder: Path) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "calibration.zoo_keras", name, str(folder)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{name}: TensorFlow did not make it within {LONGEST_S:.0f} s") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise EngineError(f"{name}: TensorFlow could not make it (exit code {done.returncode}): {last[0][:400]}")


def _card(name: str, digest: str) -> dict[str, Any]:
    """Weights are random, so probabilities are near 0 and 1 for no reason: what is limited is the noise of the logits."""
    spec = SPECS[name]
    grey = spec.colour == "GREY"
    labels = ["negative", "positive"] if grey else [f"class-{number:04d}" for number in range(spec.classes)]
    positive = "positive" if grey else None if spec.top else labels[0]
    return {
        "name": name,
        "version": VERSION,
        "title": f"{spec.title}, seeded random weights",
        "task": "classification",
        "licence": "Apache-2.0 (Keras architecture)",
        "training_data": "none: seeded random weights with activations settled on noise; for measuring speed and numerical agreement only",
        "source": {"kind": "local", "path": name},
        "sha256": digest,
        "format": "savedmodel",
        "input": {
            "layout": "NHWC",
            "colour": spec.colour,
            "sizes": [[spec.side, spec.side]],
            "mean": list(spec.mean),
            "scale": list(spec.scale),
            "resize": "stretch" if grey else "crop",
        },
        "decoder": {"name": "classification", "params": {"output": "output_0", "activation": "sigmoid" if grey else "softmax"}},
        "labels": labels,
        "positive": positive,
        "thresholds": {"score": 0.5 if positive else None, "chosen_on": "nothing: the weights are random"},
        "allowance": {"sqnr_db": 20.0, "agreement": 0.9},
    }
