from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from engines.convert.dlib_file import Affine, Convolution, FullyConnected, Pool, read_layers
from engines.convert.onnx_from_dlib import OnnxFromDlib
from engines.errors import ModelFileError
from tests.fakes.dlib_writer import SmallNetwork

pytestmark = pytest.mark.unit


def test_layers_come_in_forward_order(tmp_path: Path) -> None:
    network = SmallNetwork(0)
    network.write(tmp_path / "small.dat")
    layers = read_layers(tmp_path / "small.dat")
    pair = [Convolution, Affine]
    assert [type(layer) for layer in layers] == [*pair, Pool, *pair * 4, Pool, Pool, FullyConnected]
    assert isinstance(layers[0], Convolution)
    assert layers[0].weights.shape == (4, 3, 7, 7)
    assert (layers[0].stride, layers[0].padding) == ((2, 2), (0, 0))


@pytest.mark.parametrize("size", [41, 48, 75])
def test_the_conversion_computes_what_the_network_computes(tmp_path: Path, size: int) -> None:
    network = SmallNetwork(size)
    network.write(tmp_path / "small.dat")
    OnnxFromDlib().convert(tmp_path / "small.dat", tmp_path / "small.onnx", size)
    session = ort.InferenceSession((tmp_path / "small.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).normal(0, 1, (3, 3, size, size)).astype(np.float32)
    (found,) = session.run(None, {"image": images})
    np.testing.assert_allclose(found, [network.compute(image) for image in images], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.97])
def test_a_truncated_file_is_an_error(tmp_path: Path, kept: float) -> None:
    SmallNetwork(0).write(tmp_path / "small.dat")
    data = (tmp_path / "small.dat").read_bytes()
    (tmp_path / "cut.dat").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelFileError, match="truncated"):
        OnnxFromDlib().convert(tmp_path / "cut.dat", tmp_path / "cut.onnx", 48)
    assert not (tmp_path / "cut.onnx").exists()


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "other.dat").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(ModelFileError, match="no layer"):
        read_layers(tmp_path / "other.dat")


def test_damaged_weights_are_an_error(tmp_path: Path) -> None:
    SmallNetwork(0).write(tmp_path / "small.dat")
    data = bytearray((tmp_path / "small.dat").read_bytes())
    data[200:204] = b"\xff\xff\xff\xff"
    (tmp_path / "small.dat").write_bytes(data)
    with pytest.raises(ModelFileError, match="not finite"):
        read_layers(tmp_path / "small.dat")


def test_layers_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    network = SmallNetwork(0)
    del network.parts[11:13]
    network.write(tmp_path / "small.dat")
    with pytest.raises(ModelFileError):
        OnnxFromDlib().convert(tmp_path / "small.dat", tmp_path / "small.onnx", 48)
