"""The models behind a stream, over the same engines."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from agent.settings import Settings, load
from agent.vision.face_kit import FaceKit
from agent.vision.inference.models import Serving
from agent.vision.inference.signature import InferenceError
from engines.backends.base import IMAGE
from tests.waiting import wait_until

CONFIG = """
state_dir: state
engines: {{models_dir: {models}}}
serving: {{templates: {templates}}}
streams:
  - name: door
    source: {{type: folder, path: .}}
    tasks: [{{type: faces}}]
"""


def settings(folder: Path, models_dir: Path, engines_dir: Path, templates: bool) -> Settings:
    engines_dir.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    (folder / "state" / "engines").symlink_to(engines_dir)
    (folder / "almena.yaml").write_text(CONFIG.format(models=models_dir, templates=str(templates).lower()))
    return load(folder / "almena.yaml")


def test_they_are_served_once_the_stream_has_them_and_embedders_not(tmp_path: Path, models_dir: Path, engines_dir: Path) -> None:
    wanted = settings(tmp_path, models_dir, engines_dir, templates=False)
    with closing(Serving(wanted)) as serving:
        serving.start()
        wait_until(lambda: "templates" in serving.model("dlib-resnet").detail, 10, "the embedder's refusal")
        with pytest.raises(InferenceError, match="is loading"):
            _ = serving.model("centerface").running
        with closing(FaceKit.open(wanted)) as kit:
            wait_until(lambda: serving.ready, 10, "the detector")
            running = serving.model("centerface").running
            image = np.random.default_rng(0).integers(0, 256, (1, *running.signature.picture), np.uint8)
            found = running.batcher.submit(image, 60).result(60)
            expected = kit.detector.engine.infer({IMAGE: image})
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                np.testing.assert_allclose(found[name], tensor, rtol=1e-3, atol=1e-3)
            assert running.passports() == (kit.detector.passport,)
        assert FaceKit.opened(wanted) is kit, "the engines must stay while they are served"
        kit.close()
        with pytest.raises(InferenceError, match=r"serving\.templates"):
            _ = serving.model("dlib-resnet").running
    assert FaceKit.opened(wanted) is None


def test_templates_are_served_where_the_settings_say_so(tmp_path: Path, models_dir: Path, engines_dir: Path) -> None:
    wanted = settings(tmp_path, models_dir, engines_dir, templates=True)
    with closing(FaceKit.open(wanted)), closing(Serving(wanted)) as serving:
        serving.start()
        wait_until(lambda: serving.ready, 10, "both models")
        running = serving.model("dlib-resnet").running
        outputs = running.batcher.submit(np.zeros((1, *running.signature.picture), np.uint8), 60).result(60)
        assert next(iter(outputs.values())).shape == (1, 128)
