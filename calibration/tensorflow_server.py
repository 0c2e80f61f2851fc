"""The usual way to serve a model in Python, to compare with: TensorFlow behind FastAPI and JSON floats.

`python -m calibration.tensorflow_server CARD MODELS_DIR` serves POST /predict, `{"instances": [[[[0.5], …]]]}` of pictures that are
normalised already, and prints its port. One uvicorn process; the SavedModel's signature, warm; no validation beyond the shape, which makes
it faster than most.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from engines.card import ModelCard, card
from engines.convert import converted
from engines.fetch import ensure


def application(model: ModelCard, models_dir: Path) -> FastAPI:
    """The FastAPI application."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    loaded = tf.saved_model.load(str(converted(model, ensure(model, models_dir), ("savedmodel",))[0]))
    signature = loaded.signatures["serving_default"]
    name = next(iter(signature.structured_input_signature[1]))

    def infer(instances: Any) -> Any:
        outputs = signature(**{name: tf.constant(np.asarray(instances, np.float32))})
        return next(iter(outputs.values())).numpy().tolist()

    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return {"predictions": await run_in_threadpool(infer, (await request.json())["instances"])}

    return app


def main() -> None:
    """Serve until the process is ended."""
    model, models_dir = card(sys.argv[1]), Path(sys.argv[2])
    app = application(model, models_dir)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, asyncio turns Nagle's algorithm off
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run([listener])


if __name__ == "__main__":
    main()
