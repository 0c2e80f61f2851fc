"""Small models for tests, made by TensorFlow in a process of its own: python tests/fakes/tensorflow_models.py FOLDER

SavedModels and TFLite files of the contract suite (its convolution's weights come as FOLDER/weights.npy), a SavedModel of an operator that
only TensorFlow has, a TFLite file of one that OpenVINO has not, one seeded Keras network in all its formats, with pictures and what Keras
says of them, and one with large weights.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema


def keep(folder: Path, name: str, function: Any, inputs: dict[str, list[int | None]], tflite: bool = True) -> None:
    """As SavedModel and, by the converter, as TFLite file."""
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32, key) for key, shape in inputs.items()])
    tf.saved_model.save(module, str(folder / f"{name}.savedmodel"), signatures={"serving_default": module.serve})
    if tflite:
        made = tf.lite.TFLiteConverter.from_saved_model(str(folder / f"{name}.savedmodel")).convert()
        (folder / f"{name}.tflite").write_bytes(made)


def contract(folder: Path) -> None:
    """A convolution and the picture itself in either layout, and what must be refused."""
    kernel = tf.constant(np.load(folder / "weights.npy").transpose(2, 3, 1, 0))

    def maps(x: Any) -> Any:
        wide = tf.nn.conv2d(tf.transpose(x, [0, 2, 3, 1]), kernel, 1, "SAME")
        return {"same": tf.identity(x), "maps": tf.transpose(wide, [0, 3, 1, 2])}

    planar, flat = {"x": [None, 3, None, None]}, {"x": [None, None, None, 3]}
    keep(folder, "small-NCHW", maps, planar)
    keep(folder, "small-NHWC", lambda x: {"same": x + 0.0}, flat)
    keep(folder, "NaN", lambda x: {"bad": tf.sqrt(x - 1e9)}, planar)
    keep(folder, "infinity", lambda x: {"bad": (x - 1e9) / (x - x)}, planar)
    keep(folder, "two", lambda x, y: {"same": x + y}, planar | {"y": [1]})
    keep(folder, "bessel", lambda x: {"answer": tf.math.bessel_i0e(x)}, flat, tflite=False)
    keep(folder, "neighbours", lambda x: {"answer": tf.nn.local_response_normalization(x)}, flat)
    custom(folder)


def custom(folder: Path) -> None:
    """An operator that no runtime here has: in the TFLite file's operator codes, and in the SavedModel's graph."""
    model = schema.ModelT.InitFromPackedBuf((folder / "NaN.tflite").read_bytes(), 0)
    for code in model.operatorCodes:
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = schema.BuiltinOperator.CUSTOM, 32, b"Conjure"
    for operator in model.subgraphs[0].operators:
        operator.builtinOptions, operator.builtinOptionsType = None, 0
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "odd.tflite").write_bytes(bytes(builder.Output()))
    shutil.copytree(folder / "NaN.savedmodel", folder / "odd.savedmodel")
    graph = folder / "odd.savedmodel" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"\x04Sqrt", b"\x04Conj"))


def network(folder: Path) -> None:
    """A small seeded classifier: 32x24 RGB in 0..1 to four probabilities."""
    keras.utils.set_random_seed(7)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((24, 32, 3)), layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.8, 1.0, 1.2]),
        layers.Conv2D(8, 3, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.MaxPooling2D(), layers.DepthwiseConv2D(3, activation="relu"), layers.Flatten(), layers.Dense(4, activation="softmax"),
    ])  # fmt: skip
    model.save(folder / "network.keras")
    model.export(folder / "network.savedmodel", verbose=False)
    pictures = np.random.default_rng(3).integers(0, 256, (5, 24, 32, 3), np.uint8)
    fed = pictures[..., ::-1].astype(np.float32) / 255
    np.savez(folder / "network.npz", pictures=pictures, answers=model(fed).numpy())
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "network.savedmodel"))
    (folder / "network.tflite").write_bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in fed)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    (folder / "network-int8.tflite").write_bytes(converter.convert())


def wide(folder: Path) -> None:
    """The same pictures to four numbers, through a convolution and a dense layer of 17 MB each, with a normalisation behind a small one."""
    keras.utils.set_random_seed(8)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((24, 32, 3)), layers.Conv2D(700, 8, strides=8), layers.BatchNormalization(),
        layers.Conv2D(700, 3, activation="relu"), layers.Flatten(), layers.Dense(3200, activation="relu"), layers.Dense(4),
    ])  # fmt: skip
    model.export(folder / "wide.savedmodel", verbose=False)
    pictures = np.load(folder / "network.npz")["pictures"]
    np.save(folder / "wide.npy", model(pictures[..., ::-1].astype(np.float32) / 255).numpy())


if __name__ == "__main__":
    contract(Path(sys.argv[1]))
    network(Path(sys.argv[1]))
    wide(Path(sys.argv[1]))
