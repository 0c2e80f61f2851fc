"""Bytes in, bytes out: both protocols by their specifications, and everything that is wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.vision.inference import tfserving, v2
from agent.vision.inference.signature import InferenceError, Signature
from engines.base import TensorSpec
from engines.card import card
from tests.fakes.small_model import SIDE, noise, small_card

pytestmark = pytest.mark.unit
MOST = 4


@pytest.fixture(scope="module")
def signature(tmp_path_factory: pytest.TempPathFactory) -> Signature:
    found = card(str(small_card(tmp_path_factory.mktemp("card"))))
    return Signature("small", found, (TensorSpec("logit", "float32", (1, 1)),), MOST)


def binary(pictures: np.ndarray[Any, Any], datatype: str = "UINT8", **parameters: Any) -> tuple[bytearray, str]:
    data = pictures.tobytes()
    tensor = {"name": "image", "datatype": datatype, "shape": list(pictures.shape), "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], **parameters}).encode()
    return bytearray(head + data), str(len(head))


def plain(data: Any, shape: Any = (1, SIDE, SIDE, 1), **changes: Any) -> bytearray:
    tensor = {"name": "image", "datatype": "UINT8", "shape": shape, "data": data} | changes
    return bytearray(json.dumps({"inputs": [tensor]}).encode())


def refused(body: bytearray, signature: Signature, header: str | None = None) -> str:
    with pytest.raises(InferenceError) as caught:
        v2.decode(body, header, signature)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_a_binary_tensor(signature: Signature, datatype: str) -> None:
    pictures = noise(3)
    sent = pictures if datatype == "UINT8" else pictures.astype("<f4")
    call = v2.decode(*binary(sent, datatype, id="a7"), signature)
    assert (call.image == pictures).all()
    assert call.image.dtype == np.uint8
    assert (call.id, call.wanted) == ("a7", (("logit", False), ("probabilities", False)))


def test_a_picture_stays_where_it_came_and_may_be_written_by_the_engine(signature: Signature) -> None:
    body, header = binary(noise(2))
    image = v2.decode(body, header, signature).image
    assert image.flags.writeable
    assert not image.flags.owndata
    with pytest.raises(BufferError):
        body.clear()


def test_json_nested_and_flat(signature: Signature) -> None:
    pictures = noise(1)
    for data in (pictures.tolist(), pictures.ravel().tolist()):
        assert (v2.decode(plain(data), None, signature).image == pictures).all()


def test_a_raw_body(signature: Signature) -> None:
    pictures = noise(2)
    call = v2.decode(bytearray(pictures.tobytes()), "0", signature)
    assert (call.image == pictures).all()
    assert all(as_binary for _, as_binary in call.wanted)
    assert "whole pictures of 64 bytes" in refused(bytearray(65), signature, "0")
    assert "1 to 4 pictures, not 0" in refused(bytearray(), signature, "0")


def test_outputs_by_name_and_in_binary(signature: Signature) -> None:
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "logit"}]
    call = v2.decode(*binary(noise(2), outputs=outputs), signature)
    assert call.wanted == (("probabilities", True), ("logit", False))
    values = {"logit": np.array([[1.5], [-2.0]], np.float32), "probabilities": np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)}
    body, head = v2.encode(signature, call, values)
    assert head is not None
    described = json.loads(body[:head])
    assert (described["model_name"], described["model_version"]) == ("small", "3")
    assert described["outputs"][1] == {"name": "logit", "datatype": "FP32", "shape": [2, 1], "data": [1.5, -2.0]}
    assert described["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert (np.frombuffer(body[head:], "<f4").reshape(2, 2) == values["probabilities"]).all()
    assert all(binary for _, binary in v2.decode(*binary(noise(1), parameters={"binary_data_output": True}), signature).wanted)


def test_metadata(signature: Signature) -> None:
    found = v2.metadata(signature)
    assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 1]}]
    assert found["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}
    assert found["parameters"]["labels"] == ["dark", "bright"]
    assert v2.server()["extensions"] == ["binary_tensor_data"]


ONE = noise(1).ravel().tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"inputs": 3}', "one tensor, named 'image'"),
        (b'{"inputs": [{"name": "picture"}]}', "one tensor, named 'image'"),
        (plain(ONE, shape=[1, SIDE, SIDE]), r"must have the shape \[n, 8, 8, 1\]"),
        (plain(ONE, shape=[1, SIDE, 1, SIDE]), "must have the shape"),
        (plain(ONE, shape=[0, SIDE, SIDE, 1]), "1 to 4 pictures, not 0"),
        (plain(ONE, shape=[5, SIDE, SIDE, 1]), "1 to 4 pictures, not 5"),
        (plain(ONE, shape=[-1, SIDE, SIDE, 1]), "1 to 4 pictures, not -1"),
        (plain(ONE, shape=[10**30, SIDE, SIDE, 1]), "1 to 4 pictures"),
        (plain(ONE, shape=[1.0, SIDE, SIDE, 1]), "whole numbers"),
        (plain(ONE, shape="x"), "whole numbers"),
        (plain(ONE[1:]), r"`data` has the shape \[63\]"),
        (plain([ONE, ONE[1:]]), "regular array"),
        (plain("x"), "no number"),
        (plain([True] * 64), "no number"),
        (plain([None] * 64), "no number"),
        (plain([10**40] * 64), "no number, or one that is too large"),
        (plain([*ONE[1:], 256]), "whole numbers 0 to 255"),
        (plain([*ONE[1:], -1]), "whole numbers 0 to 255"),
        (plain([*ONE[1:], 0.5]), "normalisation is part of the model"),
        (plain(ONE, datatype="FP64"), "UINT8 or FP32, not FP64"),
        (plain(ONE, datatype=["UINT8"]), "UINT8 or FP32"),
        (plain(ONE).replace(b'"data"', b'"date"'), "neither `data` nor"),
        (plain(ONE, parameters=3), "`parameters` must be an object"),
        (plain(ONE, parameters={"binary_data_size": 64}), "needs the header"),
        (plain(ONE)[:-1] + b', "outputs": 1}', "`outputs` must be a list"),
        (plain(ONE)[:-1] + b', "outputs": [{"name": "x"}]}', "may name 'logit', 'probabilities'"),
        (plain(ONE)[:-1] + b', "outputs": [{"name": "logit", "parameters": {"classification": 2}}]}', "classification extension"),
        (plain(ONE)[:-1] + b', "outputs": [{"name": "logit", "parameters": {"binary_data": 1}}]}', "true or false"),
        (plain(ONE)[:-1] + b', "id": 5}', "`id` must be a text"),
    ],
)
def test_wrong_json_requests(signature: Signature, body: bytes, message: str) -> None:
    with pytest.raises(InferenceError, match=message) as caught:
        v2.decode(bytearray(body), None, signature)
    assert caught.value.status == 400


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(signature: Signature, value: str) -> None:
    body = plain(["here", *ONE[1:]]).replace(b'"here"', value.encode())
    assert "JSON" in refused(body, signature) or "whole numbers" in refused(body, signature)


def test_nan_in_binary(signature: Signature) -> None:
    pictures = noise(1).astype("<f4")
    pictures[0, 0, 0, 0] = np.nan
    assert "whole numbers" in refused(*_of(binary(pictures, "FP32"), signature))


def _of(sent: tuple[bytearray, str], signature: Signature) -> tuple[bytearray, Signature, str]:
    return sent[0], signature, sent[1]


@pytest.mark.parametrize("header", ["-1", "x", "9999999", "1" * 5000, "²", " 5", ""])
def test_wrong_header_lengths(signature: Signature, header: str) -> None:
    assert "Inference-Header-Content-Length" in refused(binary(noise(1))[0], signature, header)


def test_sizes_that_do_not_fit(signature: Signature) -> None:
    body, header = binary(noise(1))
    assert "takes 64" in refused(body + b"x", signature, header)
    assert "takes 64" in refused(body[:-1], signature, header)
    assert "takes 256" in refused(*_of(binary(noise(1), "FP32"), signature))
    said = bytearray(body.replace(b'"binary_data_size": 64', b'"binary_data_size": 63'))
    assert "takes 64" in refused(said, signature, header)
    assert "of which `inputs` says nothing" in refused(plain(ONE) + b"xx", signature, str(len(plain(ONE))))


def unfit(_file: bytes) -> Any:
    raise InferenceError(400, "no picture")


def predict(request: Any, signature: Signature, fit: tfserving.Fit = unfit) -> tfserving.Call:
    return tfserving.decode(bytearray(json.dumps(request).encode()), signature, fit)


def test_rows_and_columns(signature: Signature) -> None:
    pictures = noise(2)
    nested = pictures.tolist()
    for request in (
        {"instances": nested},
        {"instances": pictures[..., 0].tolist()},
        {"instances": [{"image": row} for row in nested]},
        {"inputs": nested},
        {"inputs": {"image": nested}},
        {"signature_name": "serving_default", "instances": pictures.astype(float).tolist()},
    ):
        call = predict(request, signature)
        assert (call.image == pictures).all()
        assert call.wanted == ("logit",)
        assert call.by_row == ("instances" in request)


def test_answers_in_the_format_of_the_request(signature: Signature) -> None:
    outputs = {"logit": np.array([[1.5], [-2.0]], np.float32), "probabilities": np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)}
    rows, columns = predict({"instances": noise(2).tolist()}, signature), predict({"inputs": noise(2).tolist()}, signature)
    assert json.loads(tfserving.encode(rows, outputs)) == {"predictions": [[1.5], [-2.0]]}
    assert json.loads(tfserving.encode(columns, outputs)) == {"outputs": [[1.5], [-2.0]]}
    chances = predict({"signature_name": "probabilities", "instances": noise(2).tolist()}, signature)
    assert json.loads(tfserving.encode(chances, outputs)) == {"predictions": [[0.25, 0.75], [0.5, 0.5]]}
    several = tfserving.Call(rows.image, ("logit", "probabilities"), True)
    assert json.loads(tfserving.encode(several, outputs))["predictions"][1] == {"logit": [-2.0], "probabilities": [0.5, 0.5]}


def test_picture_files(signature: Signature) -> None:
    pictures = {b"one": noise(1, 1)[0], b"two": noise(1, 2)[0]}
    rows = [{"b64": base64.b64encode(name).decode()} for name in pictures]
    for request in ({"instances": rows}, {"instances": [{"image": row} for row in rows]}, {"inputs": {"image": rows}}):
        assert (predict(request, signature, pictures.__getitem__).image == np.stack(list(pictures.values()))).all()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "`instances` .* or `inputs`"),
        ({"instances": [1], "inputs": [1]}, "one of them"),
        ({"instances": [1], "examples": 1}, "unknown key 'examples'"),
        ({"instances": []}, "not empty"),
        ({"instances": 3}, "list of pictures"),
        ({"inputs": 3}, "list of pictures"),
        ({"instances": [1, [2]]}, "regular array"),
        ({"instances": [[[1]]]}, "must have the shape"),
        ({"instances": [{"picture": 1}]}, "only input is 'image'"),
        ({"instances": [{"image": 1, "more": 2}]}, "only input is 'image'"),
        ({"instances": ["x"]}, "no number"),
        ({"instances": [{"b64": 1}]}, "a picture file is"),
        ({"instances": [{"b64": "a"}]}, "not valid base64"),
        ({"instances": [{"b64": "ä"}]}, "not valid base64"),
        ({"instances": [{"b64": ""}] * 5}, "1 to 4 pictures"),
        ({"instances": [1, {"b64": ""}]}, "cannot be mixed"),
        ({"instances": [{"b64": ""}]}, "no picture"),
        ({"signature_name": "other", "instances": [1]}, "may be 'serving_default' or 'probabilities'"),
        ({"signature_name": ["x"], "instances": [1]}, "may be 'serving_default'"),
        ([], "must be a JSON object"),
    ],
)
def test_wrong_predict_requests(signature: Signature, request_: Any, message: str) -> None:
    with pytest.raises(InferenceError, match=message) as caught:
        predict(request_, signature)
    assert caught.value.status == 400


def test_tensorflow_metadata_and_status(signature: Signature) -> None:
    found = tfserving.metadata(signature)["metadata"]["signature_def"]["signature_def"]
    assert found.keys() == {"serving_default", "probabilities"}
    assert found["serving_default"]["inputs"]["image"]["dtype"] == "DT_UINT8"
    assert [size["size"] for size in found["probabilities"]["outputs"]["probabilities"]["tensor_shape"]["dim"]] == ["-1", "2"]
    assert tfserving.status("3", "AVAILABLE")["model_version_status"][0]["status"]["error_code"] == "OK"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["b64", "image", "name", "data", "shape"]), inner, max_size=3)
    ),
    max_leaves=12,
)
TENSORS = st.fixed_dictionaries(
    {"name": st.just("image"), "datatype": st.sampled_from(["UINT8", "FP32", "INT64"]) | JSON},
    optional={"shape": st.just([1, SIDE, SIDE, 1]) | JSON, "data": st.just(ONE) | JSON, "parameters": JSON},
)


@settings(max_examples=150, deadline=None)
@given(content=JSON | st.fixed_dictionaries({"inputs": st.lists(TENSORS, max_size=2) | JSON}, optional={"outputs": JSON, "id": JSON}))
def test_any_json_is_decoded_or_refused(signature: Signature, content: Any) -> None:
    _decoded_or_refused(bytearray(json.dumps(content).encode()), None, signature)


@settings(max_examples=150, deadline=None)
@given(tail=st.binary(max_size=80), header=st.none() | st.integers(0, 200).map(str), cut=st.integers(0, 300), whole=st.booleans())
def test_any_bytes_are_decoded_or_refused(signature: Signature, tail: bytes, header: str | None, cut: int, whole: bool) -> None:
    body, length = binary(noise(1))
    _decoded_or_refused(bytearray(body[:cut] + tail), length if whole else header, signature)


@settings(max_examples=150, deadline=None)
@given(content=JSON | st.fixed_dictionaries({}, optional={"instances": JSON, "inputs": JSON, "signature_name": JSON}))
def test_any_predict_is_decoded_or_refused(signature: Signature, content: Any) -> None:
    _checked(lambda: tfserving.decode(bytearray(json.dumps(content).encode()), signature, unfit).image, signature)


def _decoded_or_refused(body: bytearray, header: str | None, signature: Signature) -> None:
    _checked(lambda: v2.decode(body, header, signature).image, signature)


def _checked(decode: Callable[[], np.ndarray[Any, Any]], signature: Signature) -> None:
    image, status = None, 400
    try:
        image = decode()
    except InferenceError as error:
        status = error.status
    assert status == 400
    assert image is None or (image.dtype == np.uint8 and 1 <= len(image) <= MOST and image.shape[1:] == signature.picture)
