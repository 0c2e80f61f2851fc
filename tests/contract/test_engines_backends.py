"""What every backend must do, run on every entry of the registry."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.backends.base import IMAGE, Backend, Build
from engines.base import Engine, EngineError
from engines.card import SUFFIXES, Format, ModelInput
from engines.errors import MissingRuntimeError, ModelFileError, UnknownNameError
from engines.registry import BACKENDS, resolve
from tests.fakes.nvidia_packages import VERSIONS
from tests.fakes.tensorrt_here import tensorrt_here

HEIGHT, WIDTH = 24, 40
FEED = ModelInput(
    layout="NCHW", colour="RGB", sizes=((WIDTH, HEIGHT),), mean=(10.0, 20.0, 30.0), scale=(2.0, 4.0, 8.0), resize="letterbox"
)  # fmt: skip
WEIGHTS = np.random.default_rng(5).normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32)


def save(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], outputs: dict[str, int], shape: list[Any]) -> Path:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.knows", 1)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()]
    graph = helper.make_graph(nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], values, weights)
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def small(path: Path, layout: str = "NCHW") -> Path:
    """A convolution and the normalised picture itself; free shapes."""
    weights = [numpy_helper.from_array(WEIGHTS, "w")]
    nodes = [helper.make_node("Identity", ["x"], ["same"])]
    if layout == "NCHW":
        nodes += [helper.make_node("Conv", ["x", "w"], ["maps"], pads=[1, 1, 1, 1])]
        return save(path, nodes, weights, {"same": 4, "maps": 4}, ["N", 3, "H", "W"])
    return save(path, nodes, [], {"same": 4}, ["N", "H", "W", 3])


def graph_of(kind: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Nodes, weights and the output of a model that must be refused, or whose outputs must."""
    if kind == "odd":
        return [helper.make_node("Conjure", ["x"], ["y"], domain="nobody.knows")], [], "y"
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    minus = numpy_helper.from_array(np.full(1, -1e9, np.float32), "minus")
    nodes = [helper.make_node("Add", ["x", "minus"], ["y"]), helper.make_node("Sqrt" if kind == "NaN" else "Identity", ["y"], ["z"])]
    return [*nodes, helper.make_node("Div" if kind == "infinity" else "Add", ["z", "zero"], ["bad"])], [zero, minus], "bad"


class Models:
    """The suite's small models in the format that a backend reads: small-NCHW, small-NHWC, NaN, infinity, two (inputs), odd (operator)."""

    def __init__(self, made: Path, folder: Path, backend: Backend) -> None:
        self.format: Format = "onnx" if "onnx" in backend.formats else backend.formats[0]
        self._made = made
        self._folder = folder

    def __call__(self, kind: str) -> Path:
        path = self._folder / f"{kind}{SUFFIXES[self.format]}"
        if self.format != "onnx":
            made = self._made / path.name
            shutil.copytree(made, path) if made.is_dir() else shutil.copyfile(made, path)
        elif kind.startswith("small-"):
            small(path, kind.removeprefix("small-"))
        elif kind == "two":
            model = onnx.load(str(small(path)))
            model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
            path.write_bytes(model.SerializeToString())
        else:
            nodes, weights, output = graph_of(kind)
            save(path, nodes, weights, {output: 4}, ["N", 3, "H", "W"])
        return path


def order(model: Path, backend: Backend, **changes: Any) -> Build:
    kept: dict[str, Format] = {suffix: name for name, suffix in SUFFIXES.items()}
    values: dict[str, Any] = {
        "name": "small", "model": model, "input": FEED, "batch": 1, "width": WIDTH, "height": HEIGHT, "precision": "fp32",
        "policy": "throughput", "threads": None, "format": kept[model.suffix],
        "unit": backend.units()[0],
    }  # fmt: skip
    return Build(**{**values, **changes})


def opened(backend: Backend, build: Build, directory: Path) -> Engine:
    target = directory / f"built{backend.suffix}"
    backend.build(build, target)
    return backend.load(build, target)


def takes_two_to_four(engine: Engine, refusal: str) -> None:
    """An engine of `small` with a free batch."""
    assert engine.inputs[0].shape == (None, HEIGHT, WIDTH, 3)
    for count in (2, 4, 3):
        found = engine.infer({IMAGE: picture(count, batch=count)})
        np.testing.assert_allclose(found["same"], normalised(picture(count, batch=count)), rtol=1e-5, atol=1e-4)
    for count in (1, 5):
        with pytest.raises(EngineError, match=refusal):
            engine.infer({IMAGE: picture(batch=count)})


def picture(seed: int = 0, batch: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (batch, HEIGHT, WIDTH, 3), np.uint8)


def normalised(image: NDArray[np.uint8], feed: ModelInput = FEED) -> NDArray[np.float32]:
    """What the card says, in numpy."""
    x = image.astype(np.float32)
    x = x[..., ::-1] if feed.colour == "RGB" else x
    x = (x - np.array(feed.mean, np.float32)) / np.array(feed.scale, np.float32)
    return x.transpose(0, 3, 1, 2) if feed.layout == "NCHW" else x


def convolved(x: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,fcij->nfhw", seen, WEIGHTS)


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, cache_dir: Path) -> Iterator[Backend]:
    """Each backend on its real runtime, but TensorRT: its newest interface on a simulated device."""
    if request.param != "tensorrt":
        yield resolve(BACKENDS, request.param, "backend")()
        return
    with tensorrt_here(VERSIONS[-1], cache_dir) as simulation:
        yield simulation.backend
        assert simulation.cuda.held() == 0


@pytest.fixture
def models(backend: Backend, small_models: Path, tmp_path: Path) -> Models:
    return Models(small_models, tmp_path, backend)


@pytest.fixture
def engine(backend: Backend, models: Models, tmp_path: Path) -> Any:
    with opened(backend, order(models("small-NCHW"), backend), tmp_path) as made:
        yield made


def test_it_says_what_it_is(backend: Backend, engine: Engine) -> None:
    assert backend.version()
    assert backend.units()
    for unit in backend.units():
        assert backend.device(unit)
        assert "fp32" in backend.precisions(unit)
    assert engine.backend == backend.name
    assert engine.precision == "fp32"
    assert engine.parallel >= 1
    assert [(spec.name, spec.dtype, spec.shape) for spec in engine.inputs] == [(IMAGE, "uint8", (1, HEIGHT, WIDTH, 3))]
    assert {spec.name for spec in engine.outputs} == {"same", "maps"}


def test_preprocessing_is_part_of_the_graph(engine: Engine) -> None:
    image = picture()
    found = engine.infer({IMAGE: image})
    np.testing.assert_allclose(found["same"], normalised(image), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found["maps"], convolved(normalised(image)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("feed", [
    FEED.model_copy(update={"colour": "BGR"}),
    FEED.model_copy(update={"mean": (0.0, 0.0, 0.0), "scale": (1.0, 1.0, 1.0)}),
    FEED.model_copy(update={"layout": "NHWC"}),
])  # fmt: skip
def test_every_kind_of_input(backend: Backend, models: Models, tmp_path: Path, feed: ModelInput) -> None:
    build = order(models(f"small-{feed.layout}"), backend, input=feed)
    with opened(backend, build, tmp_path) as engine:
        np.testing.assert_allclose(engine.infer({IMAGE: picture()})["same"], normalised(picture(), feed), rtol=1e-5, atol=1e-4)


def test_a_batch(backend: Backend, models: Models, tmp_path: Path) -> None:
    with opened(backend, order(models("small-NCHW"), backend, batch=3), tmp_path) as engine:
        image = picture(batch=3)
        np.testing.assert_allclose(engine.infer({IMAGE: image})["maps"], convolved(normalised(image)), rtol=1e-4, atol=1e-3)


def test_every_precision_that_it_names(backend: Backend, models: Models, tmp_path: Path) -> None:
    for precision in set(backend.precisions(backend.units()[0])) - {"int8"}:
        with opened(backend, order(models("small-NCHW"), backend, precision=precision), tmp_path) as engine:
            assert engine.precision == precision
            np.testing.assert_allclose(engine.infer({IMAGE: picture()})["maps"], convolved(normalised(picture())), atol=2.0)


def test_latency_serves_one_at_a_time(backend: Backend, models: Models, tmp_path: Path) -> None:
    with opened(backend, order(models("small-NCHW"), backend, policy="latency"), tmp_path) as engine:
        assert engine.parallel == 1


def test_results_belong_to_the_caller(engine: Engine) -> None:
    first = engine.infer({IMAGE: picture(1)})["maps"]
    kept = first.copy()
    engine.infer({IMAGE: picture(2)})
    assert (first == kept).all()
    first[:] = 0


def test_a_view_that_is_not_contiguous_is_read_rightly(engine: Engine) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, 2 * WIDTH, 3), np.uint8)
    view = wide[:, :, ::2]
    np.testing.assert_allclose(engine.infer({IMAGE: view})["same"], normalised(view), rtol=1e-5, atol=1e-4)


def test_an_input_may_be_written_instead_of_given(engine: Engine) -> None:
    """In turns: a call must not see the picture of the one before."""
    for seed in range(6):
        image = picture(seed)
        given = {IMAGE: image if seed % 3 == 2 else lambda target, image=image: np.copyto(target, image)}
        seen = engine.read(given, lambda outputs: outputs["same"].copy())
        np.testing.assert_allclose(seen, normalised(image), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "inputs must be"),
        ({"other": picture()}, "inputs must be"),
        ({IMAGE: picture(), "other": picture()}, "inputs must be"),
        ({IMAGE: picture().astype(np.float32)}, "uint8"),
        ({IMAGE: picture()[:, :-1]}, "must be uint8"),
        ({IMAGE: picture()[0]}, "must be uint8"),
    ],
)
def test_wrong_tensors_are_errors(engine: Engine, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.infer(tensors)


def test_many_threads_get_their_own_results(engine: Engine) -> None:
    wrong: list[int] = []
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        image = picture(seed)
        expected = convolved(normalised(image))
        start.wait()
        for _ in range(50):
            if not np.allclose(engine.infer({IMAGE: image})["maps"], expected, rtol=1e-3, atol=1e-2):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_closing_while_others_infer_ends_them_all(engine: Engine) -> None:
    refused: list[str] = []
    started = threading.Barrier(7)

    def work() -> None:
        engine.infer({IMAGE: picture()})
        started.wait()
        while not refused or len(refused) < 6:
            try:
                engine.infer({IMAGE: picture()})
            except EngineError as error:
                refused.append(str(error))
                return

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    started.wait()
    engine.close()
    engine.close()
    for thread in threads:
        thread.join(120)
    assert len(refused) == 6
    assert all("closed" in message for message in refused)


@pytest.mark.parametrize("kind", ["NaN", "infinity"])
def test_outputs_that_are_not_finite_are_errors(backend: Backend, models: Models, tmp_path: Path, kind: str) -> None:
    build = order(models(kind), backend)
    with opened(backend, build, tmp_path) as engine:
        with pytest.raises(EngineError, match="'bad' holds NaN or infinity"):
            engine.infer({IMAGE: picture()})
        picked = engine.read({IMAGE: picture()}, lambda outputs: outputs["bad"].copy(), picked=("bad",))
        assert not np.isfinite(picked).any(), "what a reader picks from is its own to check"


def test_an_operator_that_nobody_knows_is_an_error(backend: Backend, models: Models, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"small: .*odd\."):
        backend.build(order(models("odd"), backend), tmp_path / "built")


@pytest.mark.parametrize("content", [b"", b"no model at all", None])
def test_a_file_that_is_no_model_is_an_error(backend: Backend, models: Models, tmp_path: Path, content: bytes | None) -> None:
    model = models("small-NCHW")
    file = model / "saved_model.pb" if model.is_dir() else model
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3] if content is None else content)
    with pytest.raises(ModelFileError, match=rf"small: .*{re.escape(model.name)}"):
        backend.build(order(model, backend), tmp_path / "built")


def test_a_built_file_that_is_damaged_is_an_error(backend: Backend, models: Models, tmp_path: Path) -> None:
    build = order(models("small-NCHW"), backend)
    (tmp_path / "built").write_bytes(b"\x00" * 100)
    with pytest.raises(EngineError, match="small: "):
        backend.load(build, tmp_path / "built")


def test_a_model_of_two_inputs_is_an_error(backend: Backend, models: Models, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="2 inputs"):
        backend.build(order(models("two"), backend), tmp_path / "built")


def test_a_card_of_another_layout_or_colour_is_told_with_the_input(backend: Backend, models: Models, tmp_path: Path) -> None:
    model = models("small-NCHW")
    for change in ({"layout": "NHWC"}, {"colour": "GREY", "mean": (1.0,), "scale": (1.0,)}):
        build = order(model, backend, input=FEED.model_copy(update=change))
        with pytest.raises(ModelFileError, match=r"small: input '[\w:]+' of .*small-NCHW"):
            backend.build(build, tmp_path / "built")


def test_an_only_output_is_called_what_the_decoder_reads(backend: Backend, models: Models, tmp_path: Path) -> None:
    build = order(models("small-NHWC"), backend, input=FEED.model_copy(update={"layout": "NHWC"}), outputs=("wanted",))
    with opened(backend, build, tmp_path) as engine:
        assert [spec.name for spec in engine.outputs] == ["wanted"]
        assert engine.infer({IMAGE: picture()}).keys() == {"wanted"}


def test_several_outputs_keep_their_names(backend: Backend, models: Models, tmp_path: Path) -> None:
    with opened(backend, order(models("small-NCHW"), backend, outputs=("wanted",)), tmp_path) as engine:
        assert {spec.name for spec in engine.outputs} == {"same", "maps"}


def test_an_unknown_backend_is_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'openvino'"):
        resolve(BACKENDS, "openvinoo", "backend")


def test_a_missing_runtime_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "no_such_runtime", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install"):
        resolve({"x": "no_such_runtime_at_all:Thing"}, "x", "backend")
