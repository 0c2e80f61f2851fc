"""What runs in a child process for `engines.convert.tensorflow`: python -m engines.convert.tensorflow_worker ACTION PATH...

Prints one line of JSON: {"almena": 1, "result": …} or {"almena": 1, "wrong": "why"}.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from engines.convert.tensorflow_weights import WrongModelError, large_weights
from engines.errors import said
from engines.heap import trim

OPSET = 17


def savedmodel_from_keras(source: str, target: str) -> None:
    """Export the inference signature."""
    model = _keras(source)
    try:
        model.export(target, format="tf_saved_model", verbose=False)
    except (ValueError, TypeError) as error:
        raise WrongModelError(f"Keras cannot export it: {said(error)}; export it where it was trained, with `model.export`") from error


def tflite_from_savedmodel(source: str, target: str) -> None:
    """Convert the serving signature."""
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError

    key = _signature(_loaded(source))
    try:
        Path(target).write_bytes(tf.lite.TFLiteConverter.from_saved_model(source, signature_keys=[key]).convert())
    except ConverterError as error:
        raise WrongModelError(f"TensorFlow Lite cannot say it: {said(error)}; choose another backend") from error


def onnx_from_savedmodel(source: str, target: str) -> None:
    """tf2onnx of the serving signature; inputs and outputs keep the signature's names. Large matrices go around it."""
    import tensorflow as tf
    import tf2onnx

    loaded = _loaded(source)
    concrete = loaded.signatures[_signature(loaded)]
    large = large_weights(concrete)

    class Function:
        @staticmethod
        def get_concrete_function() -> Any:
            return concrete

    try:
        if large is None:
            model, _ = tf2onnx.convert.from_function(Function, [], opset=OPSET)
        else:
            outputs = [tensor.name for tensor in concrete.outputs]
            names = dict(zip(outputs, sorted(concrete.structured_outputs), strict=True))
            names |= dict(zip(large.inputs, sorted(concrete.structured_input_signature[1]), strict=False))
            model, _ = tf2onnx.convert.from_graph_def(
                large.graph, input_names=[*large.inputs, *large.weights], output_names=outputs, opset=OPSET, tensors_to_rename=names
            )
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise WrongModelError(f"tf2onnx {tf2onnx.__version__} cannot convert it: {said(error)}; choose another backend") from error
    gc.collect()
    trim()
    _hold(model, {inner.name: outer.numpy for outer, inner in concrete.graph.captures if outer.dtype != tf.resource})
    if large is not None:
        _hold(model, large.weights)
        _turn(model, large.weights)
    _write(model, target)


def onnx_from_tflite(source: str, target: str) -> None:
    """tf2onnx of a TFLite file; tensors keep their names."""
    import struct

    import tf2onnx

    try:
        model, _ = tf2onnx.convert.from_tflite(source, opset=OPSET)
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WrongModelError(f"tf2onnx {tf2onnx.__version__} cannot read it: {said(error)}; fetch or export it again") from error
    _write(model, target)


def inspect_keras(source: str) -> dict[str, Any]:
    """Inputs and outputs of a .keras file: [name, dtype, shape] each."""
    model = _keras(source)
    return {
        "inputs": [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in model.inputs],
        "outputs": [[f"output_{index}", tensor.dtype, list(tensor.shape)] for index, tensor in enumerate(model.outputs)],
    }


def inspect_savedmodel(source: str) -> dict[str, Any]:
    """Inputs and outputs of the serving signature: [name, dtype, shape] each."""
    loaded = _loaded(source)
    concrete = loaded.signatures[_signature(loaded)]

    def described(tensors: dict[str, Any]) -> list[Any]:
        return [
            [name, tensor.dtype.name, tensor.shape.as_list() if tensor.shape.rank is not None else []] for name, tensor in tensors.items()
        ]

    return {"inputs": described(concrete.structured_input_signature[1]), "outputs": described(concrete.structured_outputs)}


ACTIONS = (savedmodel_from_keras, tflite_from_savedmodel, onnx_from_savedmodel, onnx_from_tflite, inspect_keras, inspect_savedmodel)


def _keras(source: str) -> Any:
    import keras

    try:
        return keras.saving.load_model(source, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise WrongModelError(f"Keras {keras.__version__} cannot load it: {said(error)}; save it again with `model.save`") from error


def _loaded(source: str) -> Any:
    import tensorflow as tf

    try:
        return tf.saved_model.load(source)
    except (OSError, ValueError, KeyError, IndexError, TypeError, tf.errors.OpError) as error:
        raise WrongModelError(f"TensorFlow {tf.__version__} cannot load it: {said(error)}; export it again") from error


def _signature(loaded: Any) -> str:
    """The serving signature, or the only one."""
    names = [name for name in loaded.signatures if name != "__saved_model_init_op"]
    if "serving_default" in names:
        return "serving_default"
    if len(names) != 1:
        raise WrongModelError(f"it has the signatures {names or 'none'}, and no serving_default; export it with one")
    return str(names[0])


def _hold(model: Any, constants: Mapping[str, Callable[[], Any]]) -> None:
    """Make initialisers of what tf2onnx leaves as inputs: the constants that the signature captured (those of Keras' Normalization), and
    large weights. Each is read when it is its turn.
    """
    import onnx

    used = {name for node in model.graph.node for name in node.input}
    for given in [given for given in model.graph.input if given.name in constants]:
        model.graph.input.remove(given)
        if given.name in used:
            values, held = constants[given.name](), model.graph.initializer.add()
            held.name, held.data_type = given.name, onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
            held.dims.extend(values.shape)
            held.raw_data = values.tobytes()


def _turn(model: Any, names: Collection[str]) -> None:
    """Lay initialisers out as their only use wants them: where tf2onnx does not see a weight, it leaves that to a node."""
    from onnx import numpy_helper

    weights = {one.name: one for one in model.graph.initializer if one.name in names}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        weight = weights[node.input[0]]
        if uses[weight.name] == 1:
            order = [int(axis) for axis in node.attribute[0].ints]
            turned = numpy_helper.to_array(weight).transpose(order)
            weight.name, weight.dims[:], weight.raw_data = node.output[0], turned.shape, turned.tobytes()
            model.graph.node.remove(node)


def _write(model: Any, target: str) -> None:
    """Keep the ONNX model if all its operators are ONNX's own: tf2onnx leaves in what it does not know."""
    import onnx

    for node in model.graph.node:
        if not onnx.defs.has(node.op_type, node.domain):
            raise WrongModelError(
                f"operator {node.op_type} of node {node.name!r} has no equivalent in ONNX; choose a backend that reads the file itself"
            )
    Path(target).write_bytes(model.SerializeToString())


def _die_with_parent() -> None:
    """The parent holds the other end of standard input until it ends."""
    sys.stdin.buffer.read()
    os._exit(1)


def main(action: str, *paths: str) -> int:
    """Do it, and say how it went."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        result = {work.__name__: work for work in ACTIONS}[action](*paths)
        print(json.dumps({"almena": 1, "result": result}), flush=True)
    except WrongModelError as error:
        print(json.dumps({"almena": 1, "wrong": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # TensorFlow's threads need no tidy end
