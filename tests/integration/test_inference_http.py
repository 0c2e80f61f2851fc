"""Models over HTTP through the real page and control socket, on real engines: the protocols by their own clients, floods, ends."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families

from agent.http.passwords import hash_password
from agent.serving_settings import ServedModelSettings, ServingSettings
from agent.settings import EngineSettings, LoginSettings, Settings, WebSettings
from agent.vision.control import ControlServer
from agent.vision.inference import models
from agent.vision.inference.models import Served, Serving
from agent.vision.service import Vision
from tests.fakes.held_inference import ExitingSockets, Gate
from tests.fakes.small_model import LABELS, SIDE, logits, noise, small_card
from tests.fakes.small_site import SmallSite
from tests.waiting import wait_until

INFER = "/v2/models/small/infer"


def served(site: SmallSite, folder: Path, **changes: Any) -> Serving:
    """Let the site's vision serve the small model."""
    model = ServedModelSettings(name="small", card=str(small_card(folder)), **{"batch": 8, "queue": 64, **changes})
    serving = Serving(
        Settings(
            state_dir=folder / "state",
            engines=EngineSettings(backend="onnxruntime", precision="fp32"),
            serving=ServingSettings(models=(model,), timeout_s=60),
        )
    )
    site.vision.serving = serving
    serving.start()
    wait_until(lambda: serving.ready, 30, "the model")
    return serving


@pytest.fixture(scope="module", autouse=True)
def _two_processors() -> Iterator[None]:
    """There are as many calls at once as processors, and what comes beyond them waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 2)
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSite]:
    with SmallSite(tmp_path_factory.mktemp("site")) as site:
        serving = served(site, tmp_path_factory.mktemp("model"))
        yield site
        serving.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SmallSite]:
    with SmallSite(tmp_path / "site") as site:
        yield site


def binary(pictures: np.ndarray[Any, Any], **more: Any) -> tuple[bytes, dict[str, str]]:
    data = pictures.tobytes()
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pictures.shape), "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return head + data, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}


def error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: str = answer.json()["error"]
    return found


def address(site: SmallSite) -> str:
    return site.server.url.removeprefix("http://").rstrip("/")


def test_the_official_client_with_binary_tensors(site: SmallSite) -> None:
    with triton.InferenceServerClient(address(site)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("small")
        assert client.is_model_ready("small", "3")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["name"] == "almena"
        metadata = client.get_model_metadata("small")
        assert metadata["inputs"][0]["shape"] == [-1, SIDE, SIDE, 1]
        assert metadata["parameters"]["labels"] == list(LABELS)
        pictures = noise(5)
        tensor = triton.InferInput("image", list(pictures.shape), "UINT8").set_data_from_numpy(pictures)
        answer = client.infer("small", [tensor], request_id="r-1")
        np.testing.assert_allclose(answer.as_numpy("logit"), logits(pictures), rtol=1e-5, atol=1e-3)
        assert answer.get_response()["id"] == "r-1"
        chances = answer.as_numpy("probabilities")
        np.testing.assert_allclose(chances.sum(1), 1.0, rtol=1e-5)
        assert (chances.argmax(1) == (logits(pictures)[:, 0] > 0)).all()


def test_the_official_client_with_json_and_with_floats(site: SmallSite) -> None:
    pictures = noise(3, 1)
    with triton.InferenceServerClient(address(site)) as client:
        tensor = triton.InferInput("image", list(pictures.shape), "FP32")
        tensor.set_data_from_numpy(pictures.astype(np.float32), binary_data=False)
        wanted = [triton.InferRequestedOutput("logit", binary_data=False)]
        answer = client.infer("small", [tensor], outputs=wanted)
        np.testing.assert_allclose(answer.as_numpy("logit"), logits(pictures), rtol=1e-5, atol=1e-3)
        assert answer.as_numpy("probabilities") is None
        with pytest.raises(triton.InferenceServerException, match="no model is served as 'other'"):
            client.infer("other", [tensor])
        with pytest.raises(triton.InferenceServerException, match="shape"):
            client.infer("small", [triton.InferInput("image", [1, 2, 2, 1], "UINT8").set_data_from_numpy(np.zeros((1, 2, 2, 1), np.uint8))])


def test_a_body_of_unknown_length(site: SmallSite) -> None:
    body, headers = binary(noise(2, 2))
    answer = site.client.post(INFER, content=iter([body[:50], body[50:]]), headers=headers)
    assert answer.status_code == 200
    assert "transfer-encoding" in answer.request.headers
    np.testing.assert_allclose(answer.json()["outputs"][0]["data"], logits(noise(2, 2))[:, 0], rtol=1e-5, atol=1e-3)


def test_tensorflow_serving(site: SmallSite) -> None:
    pictures = noise(4, 3)
    expected = logits(pictures)
    rows = site.client.post("/v1/models/small:predict", json={"instances": pictures.tolist()}).json()["predictions"]
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-3)
    columns = site.client.post("/v1/models/small/versions/3:predict", json={"inputs": pictures[..., 0].tolist()}).json()["outputs"]
    np.testing.assert_allclose(columns, expected, rtol=1e-5, atol=1e-3)
    files = [{"b64": base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()} for picture in pictures]
    named = {"signature_name": "probabilities", "instances": files}
    chances = np.array(site.client.post("/v1/models/small:predict", json=named).json()["predictions"])
    assert (chances.argmax(1) == (expected[:, 0] > 0)).all()
    state = site.client.get("/v1/models/small").json()["model_version_status"][0]
    assert (state["version"], state["state"]) == ("3", "AVAILABLE")
    assert "serving_default" in site.client.get("/v1/models/small/metadata").json()["metadata"]["signature_def"]["signature_def"]
    damaged = {"instances": [{"b64": base64.b64encode(b"no picture").decode()}]}
    assert "not a JPEG" in error(site.client.post("/v1/models/small:predict", json=damaged), 400)


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("length", ["", "Content-Length: 5\r\n"])
def test_no_second_request_hides_in_a_body(site: SmallSite, method: str, length: str) -> None:
    hidden = b"POST /reload HTTP/1.1\r\nHost: vision\r\n\r\n"
    head = f"{method} {INFER} HTTP/1.1\r\nHost: {address(site)}\r\n{length}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    host, _, port = address(site).rpartition(":")
    with socket.create_connection((host, int(port)), 60) as client:
        client.sendall(head.encode() + b"5\r\n12345\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden))
        assert client.recv(4096).split(b" ")[1] in (b"400", b"405")
    assert site.client.get("/v2/health/live").status_code == 200
    assert site.vision.reloads == 0


def test_what_is_refused(site: SmallSite) -> None:
    body, headers = binary(noise(1))
    assert "no model is served as 'x'; there are: small" in error(
        site.client.post("/v2/models/x/infer", content=body, headers=headers), 404
    )
    assert "no version '9'; it has 3" in error(site.client.post("/v2/models/small/versions/9/infer", content=body, headers=headers), 404)
    assert "no such path" in error(site.client.get("/v2/repository/index"), 404)
    assert "takes POST" in error(site.client.get(INFER), 405)
    assert "takes GET" in error(site.client.post("/v2/models/small", json={}), 405)
    assert "compressed" in error(site.client.post(INFER, content=body, headers=headers | {"Content-Encoding": "gzip"}), 415)
    assert "must be 0 to" in error(site.client.post(INFER, content=body, headers=headers | {"Inference-Header-Content-Length": "x"}), 400)
    assert "not valid JSON" in error(site.client.post(INFER, content=b"{", headers={"Content-Type": "application/json"}), 400)
    assert "1 to 64 pictures, not 65" in error(site.client.post(INFER, **_request(noise(65))), 400)
    assert site.client.post(INFER, content=b"a=1", headers={"Content-Type": "application/x-www-form-urlencoded"}).status_code == 415
    assert site.client.post(INFER, content=body, headers=headers | {"Origin": "http://evil.example"}).status_code == 403


def _request(pictures: np.ndarray[Any, Any]) -> dict[str, Any]:
    content, headers = binary(pictures)
    return {"content": content, "headers": headers}


def test_bodies_that_are_too_large(site: SmallSite) -> None:
    host, _, port = address(site).rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.putrequest("POST", INFER)
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(2**40))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    piece = b"x" * 2**20
    answer = site.client.post(INFER, content=(piece for _ in range(33)), headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 413


def test_many_clients_are_each_answered_once_and_right(site: SmallSite) -> None:
    def client(number: int) -> int:
        random = np.random.default_rng(number)
        with httpx.Client(base_url=site.server.url, timeout=60) as http_client:
            for round_ in range(15):
                pictures = noise(int(random.integers(1, 5)), number * 100 + round_)
                answer = http_client.post(INFER, **_request(pictures))
                assert answer.status_code == 200, answer.text
                np.testing.assert_allclose(answer.json()["outputs"][0]["data"], logits(pictures)[:, 0], rtol=1e-5, atol=1e-3)
        return 15

    before = _state(site)
    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(client, range(12))) == 180
    after = _state(site)
    assert after["results"]["ok"] - before["results"].get("ok", 0) == 180
    assert max(map(int, after["calls"])) > 4, "nothing was coalesced"
    assert after["queued"] == 0


def _state(site: SmallSite) -> dict[str, Any]:
    found: dict[str, Any] = site.client.get("/api/1/inference").json()[0]
    return found


def test_metrics_and_description(site: SmallSite) -> None:
    assert site.client.post(INFER, **_request(noise(3))).status_code == 200
    families = {family.name: family for family in text_string_to_metric_families(site.client.get("/metrics").text)}
    ready = families["almena_inference_ready"].samples[0]
    assert (ready.labels, ready.value) == ({"model": "small"}, 1)
    counted = {sample.labels["result"]: sample.value for sample in families["almena_inference_requests"].samples}
    assert counted["ok"] >= 1
    assert {"wait", "compute", "total"} == {sample.labels["stage"] for sample in families["almena_inference_seconds"].samples}
    sizes = {sample.name: sample.value for sample in families["almena_inference_call_pictures"].samples if "le" not in sample.labels}
    assert sizes["almena_inference_call_pictures_sum"] >= sizes["almena_inference_call_pictures_count"] >= 1
    paths = site.client.get("/api/1/openapi.json").json()["paths"]
    assert {"/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer", "/v1/models/{name}:predict"} <= paths.keys()
    engines = _state(site)["engines"]
    assert [(engine["batch"], engine["backend"], engine["precision"]) for engine in engines] == [
        (1, "onnxruntime", "fp32"),
        (8, "onnxruntime", "fp32"),
    ]


def test_a_flood_is_refused_and_what_was_taken_is_answered(own: SmallSite, tmp_path: Path) -> None:
    serving = served(own, tmp_path, queue=8)
    gate = Gate(serving)

    def client(number: int) -> tuple[int, str | None, bool]:
        answer = httpx.post(own.server.url + INFER[1:], **_request(noise(2, number)), timeout=60)
        right = answer.status_code != 200 or np.allclose(answer.json()["outputs"][0]["data"], logits(noise(2, number))[:, 0], atol=1e-3)
        return answer.status_code, answer.headers.get("retry-after"), right

    with ThreadPoolExecutor(30) as pool:
        answers = [pool.submit(client, number) for number in range(30)]
        wait_until(lambda: sum(answer.done() for answer in answers) >= 10, 20, "refusals")
        gate.open()
        found = [answer.result() for answer in answers]
    assert {status for status, _, _ in found} == {200, 429}
    assert all(again == "1" for status, again, _ in found if status == 429)
    assert all(right for _, _, right in found)
    assert [status for status, _, _ in found].count(200) == serving.status()[0]["results"]["ok"]
    serving.close()


def test_a_client_that_leaves_is_dropped_through_both_processes(own: SmallSite, tmp_path: Path) -> None:
    serving = served(own, tmp_path, batch=1)
    gate = Gate(serving)
    batcher = serving.model("small").running.batcher
    host, _, port = address(own).rpartition(":")
    body, headers = binary(noise(1))
    lines = [f"POST {INFER} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    with ExitingSockets() as sockets:
        for _ in range(8):
            sockets.open(host, int(port)).sendall("\r\n".join([*lines, "", ""]).encode() + body)
        wait_until(lambda: batcher.metrics()["queued"] + gate.calls == 8, 10, "all of them")
    wait_until(lambda: batcher.metrics()["results"].get("cancelled") == 8, 10, "their leaving")
    assert batcher.metrics()["queued"] == 0
    gate.open()
    serving.close()


def test_closing_answers_what_is_under_way(own: SmallSite, tmp_path: Path) -> None:
    serving = served(own, tmp_path, batch=1)
    gate = Gate(serving)
    with ThreadPoolExecutor(13) as pool:
        answers = [pool.submit(httpx.post, own.server.url + INFER[1:], **_request(noise(1, n)), timeout=60) for n in range(12)]
        batcher = serving.model("small").running.batcher
        wait_until(lambda: gate.calls and batcher.metrics()["queued"] > 4, 10, "the queue")
        closing = pool.submit(serving.close)
        wait_until(lambda: sum(answer.done() for answer in answers) > 4, 10, "what was queued")
        gate.open()
        closing.result(60)
        statuses = [answer.result().status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert "closed" in error(own.client.post(INFER, **_request(noise(1))), 503)


def test_closing_leaves_a_model_behind_that_is_being_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def open(_: Served) -> None:
        loading.set()
        assert go_on.wait(60)

    monkeypatch.setattr(Served, "open", open)
    monkeypatch.setattr(models, "CLOSE_S", 0.05)
    serving = Serving(Settings(state_dir=tmp_path, serving=ServingSettings(models=(ServedModelSettings(name="slow", card="centerface"),))))
    serving.start()
    try:
        assert loading.wait(60)
        serving.close()
        assert serving.model("slow").state == "loading"
    finally:
        go_on.set()
    wait_until(lambda: serving.model("slow").state == "closed", 10, "the model to be freed")


RELOADED = """
device: {{name: entrance}}
state_dir: {state}
engines: {{backend: onnxruntime, precision: fp32}}
serving: {{models: [{{name: small, card: {card}, batch: {batch}}}]}}
"""


def test_a_reload_answers_every_request_and_then_serves_the_new_engines(own: SmallSite, tmp_path: Path) -> None:
    settings, card = tmp_path / "almena.yaml", small_card(tmp_path)
    settings.write_text(RELOADED.format(state=own.settings.state_dir, card=card, batch=1))
    own.stop_vision()
    done = threading.Event()

    def client(seed: int) -> list[tuple[int, bool, str]]:
        """Status, whether the answer is right or says why not, and the engines' version, of one request after another."""
        found = []
        with httpx.Client(base_url=own.server.url, timeout=60) as http:
            while not done.is_set():
                answer = http.post(INFER, **_request(noise(2, seed)))
                content = answer.json()
                if answer.status_code == 200:
                    right = np.allclose(content["outputs"][0]["data"], logits(noise(2, seed))[:, 0], atol=1e-3)
                    found.append((200, right, content["model_version"]))
                else:
                    found.append((answer.status_code, "small" in content["error"] and "retry-after" in answer.headers, ""))
        return found

    with ExitStack() as running, ThreadPoolExecutor(4) as pool:
        vision = Vision(settings)
        running.callback(vision.stop)
        control = ControlServer(vision)
        control.start()
        vision.start()
        wait_until(lambda: vision.serving.ready, 60, "the model")
        clients = [pool.submit(client, seed) for seed in range(4)]
        for version in ("4", "5"):
            wait_until(lambda: vision.serving.status()[0]["results"].get("ok", 0) > 20, 60, "answers by the engines before")
            card.write_text(card.read_text().replace("version: '", f"version: '{version}"))
            settings.write_text(RELOADED.format(state=own.settings.state_dir, card=card, batch=int(version)))
            assert vision.reload()
            wait_until(lambda: vision.serving.ready, 60, "the new engines")
        wait_until(lambda: vision.serving.status()[0]["results"].get("ok", 0) > 20, 60, "answers by the new engines")
        done.set()
        answers = [answer.result(60) for answer in clients]
        control.stop()
    assert {status for found in answers for status, _, _ in found} <= {200, 503}
    assert all(right for found in answers for _, right, _ in found)
    versions = [[version for status, _, version in found if status == 200] for found in answers]
    assert all(found == sorted(found, key=len) for found in versions)
    assert {version for found in versions for version in found} == {"3", "43", "543"}


def test_without_vision_it_is_said(own: SmallSite) -> None:
    own.stop_vision()
    answer = own.client.post(INFER, **_request(noise(1)))
    assert "vision process does not answer" in error(answer, 503)
    assert answer.headers["retry-after"] == "1"
    own.start_vision()
    assert own.client.get("/v2/health/live").json() == {"live": True}
    assert "there are: none" in error(own.client.post(INFER, **_request(noise(1))), 404)


def test_models_that_cannot_be_served_say_why(own: SmallSite, tmp_path: Path) -> None:
    models = (ServedModelSettings(name="lost", card=str(tmp_path / "lost.yaml")), ServedModelSettings(name="faces", card="dlib-resnet"))
    serving = Serving(Settings(state_dir=tmp_path, serving=ServingSettings(models=models)))
    own.vision.serving = serving
    serving.start()
    wait_until(lambda: all(model["state"] == "failed" for model in serving.status()), 20, "both to fail")
    assert "lost.yaml" in error(own.client.post("/v2/models/lost/infer", **_request(noise(1))), 503)
    assert "serving.templates" in error(own.client.post("/v2/models/faces/infer", **_request(noise(1))), 403)
    assert own.client.get("/v2/models/lost/ready").status_code == 503
    assert own.client.get("/v2/health/ready").status_code == 503
    assert own.client.get("/v1/models/lost").json()["model_version_status"][0]["state"] == "END"
    serving.close()


def test_a_login_is_asked_for(tmp_path: Path) -> None:
    web = WebSettings(port=0, login=LoginSettings(password_hash=hash_password("right")))
    with SmallSite(tmp_path, web) as site:
        assert site.client.get("/v2/health/live").status_code == 401
        assert site.client.post(INFER, **_request(noise(1))).status_code == 401
        assert site.client.get("/v2/health/live", auth=("admin", "right")).json() == {"live": True}
