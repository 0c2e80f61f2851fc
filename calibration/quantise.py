"""QDQ INT8 of an FP32 ONNX model."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.equalise import equalise
from calibration.errors import CalibrationError
from calibration.pairs import free
from calibration.ranges import Observed, Progress, chosen, observe, peaks
from calibration.rules import broken_rules
from engines.calibrated import Flavour, Ranges
from engines.results import F32

OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Mul",
    "Pad", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that are computed, or passed through, in 8 bits. Sigmoid, softmax and normalisations stay float: they need the resolution
and gain nothing."""


class Quantiser:
    """One model: its graph made ready, what its tensors hold, and QDQ files of it.

    `nodes`: the names of those that can be quantised, in the graph's order.
    """

    def __init__(self, model: Path, name: str) -> None:
        """Raises CalibrationError where the model cannot be read."""
        self.name = name
        self.model = _prepared(model, name)
        self.nodes = tuple(node.name for node in self.model.graph.node if node.op_type in OPERATORS)
        if not self.nodes:
            raise CalibrationError(f"{name}: {model.name} has no operator that can be quantised: {', '.join(OPERATORS)}")
        self._observed: dict[str, Observed] = {}
        self._whole: dict[tuple[Flavour, Ranges], Any] = {}

    def observe(self, samples: Sequence[F32], progress: Progress = lambda done, total: None) -> None:
        """Learn what values the tensors take, once the channels are of like size. Raises CalibrationError."""
        total = 3 * len(samples)
        try:
            equalise(self.model, peaks(self.model, samples, lambda done, _: progress(done, total)))
            self._observed = observe(self.model, samples, lambda done, _: progress(len(samples) + done, total))
        except CalibrationError as error:
            raise CalibrationError(f"{self.name}: {error}") from error
        self._whole.clear()

    def quantised(self, flavour: Flavour, ranges: Ranges, float_nodes: Collection[str] = ()) -> Any:
        """The QDQ model; what `float_nodes` read is not quantised for them. Raises CalibrationError.

        u8s8: unsigned activations with a zero point, signed weights per channel. s8s8: all signed and symmetric, biases left in float,
        because TensorRT refuses a bias that is dequantised from 32 bits.
        """
        import onnx

        if (flavour, ranges) not in self._whole:
            self._whole[flavour, ranges] = self._quantise(flavour, ranges)
        made = onnx.ModelProto()
        made.CopyFrom(self._whole[flavour, ranges])
        free(made.graph, self.model.graph, set(float_nodes))
        if broken := broken_rules(made, flavour):
            raise CalibrationError(f"{self.name}: the {flavour} model breaks rules of the runtimes: {'; '.join(broken[:5])}")
        onnx.checker.check_model(made)
        return made

    def _quantise(self, flavour: Flavour, ranges: Ranges) -> Any:
        """Everything that can be."""
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        covered = {name: chosen(observed, ranges) for name, observed in self._observed.items()}
        data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in covered.items()}
        signed = flavour == "s8s8"
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=list(OPERATORS),
            extra_options={
                "ActivationSymmetric": signed,
                "WeightSymmetric": True,
                "QuantizeBias": not signed,
                "QDQKeepRemovableActivations": True,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        return quantizer.model.model


def _prepared(model: Path, name: str) -> Any:
    """Shapes inferred, constants folded, batch normalisation merged (quant_pre_process); every node named; the default opset only."""
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ort.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory(prefix="almena-calibrate-") as folder:
        target = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(model), str(target), skip_symbolic_shape=True)
            prepared = onnx.load(str(target))
        except Exception as error:  # onnx, protobuf and the runtime each have kinds of their own
            raise CalibrationError(f"{name}: {model.name} cannot be prepared: {' '.join(str(error).split())[:300]}") from error
        finally:
            ort.set_default_logger_severity(2)
    for index, node in enumerate(prepared.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    used = {node.domain for node in prepared.graph.node}
    opsets = [entry for entry in prepared.opset_import if entry.domain in used]
    del prepared.opset_import[:]
    prepared.opset_import.extend(opsets)
    return prepared
