"""`almena bench http`: a model over HTTP, through both processes of the agent."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
import yaml

from agent.commands.tune import settings_of
from agent.errors import AlmenaError
from agent.supervisor import beside
from agent.uplink.vision_link import VisionError, VisionLink

if TYPE_CHECKING:
    from calibration.http_load import Load, Post
    from engines.card import ModelCard
    from engines.model import EngineOptions

NAME = "bench"
STARTS_WITHIN_S = 900.0
LEAST_FOR_A_CLIENT = 3
ENGINE_S = 1.0
BASELINE = "TensorFlow's SavedModel signature in FastAPI, JSON floats, one process of uvicorn"
COUNTED = (
    "pictures a second of requests that were answered with 200 and the right content; bodies are encoded beforehand; every client waits for"
    " its answer before it sends the next"
)


def http(
    model: Annotated[str, typer.Argument(help="A card, a card file, or a model of the bench: grey-cnn, resnet-50, vgg-16 …")],
    requests: Annotated[int, typer.Option(min=1, help="In each round with one picture each; with more pictures as many fewer.")] = 200,
    images: Annotated[str, typer.Option(help="Pictures in a request, comma-separated.")] = "1,16",
    clients: Annotated[int, typer.Option(min=1, max=64, help="Requests at once.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Everything takes turns so many times; medians count.")] = 3,
    against: Annotated[Literal["tensorflow"] | None, typer.Option(help="TensorFlow in FastAPI with JSON floats, in turns.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pictures a second and latency of Open Inference Protocol v2 with binary tensors, against the usual way."""
    from agent.vision.face_kit import engine_options
    from calibration.zoo import paths_of

    settings = settings_of(config)
    options = engine_options(settings)
    [path] = paths_of([model], options.models_dir)
    sizes = tuple(int(part) for part in images.split(",") if part.strip().isdecimal() and 1 <= int(part) <= 256)
    if not sizes or len(sizes) != len(images.split(",")):
        raise typer.BadParameter("give whole numbers from 1 to 256, comma-separated", param_hint="--images")
    found = HttpBench(path, options, sizes, requests, clients, rounds).run(against is not None)
    print(json.dumps(found, indent=2) if as_json else _text(found))


class HttpBench:
    """Both processes of the agent, and the other server if wanted, take turns under the same load."""

    def __init__(self, card: str, options: EngineOptions, images: tuple[int, ...], requests: int, clients: int, rounds: int) -> None:
        from engines.card import card as card_of

        self._path = card
        self._card: ModelCard = card_of(card)
        self._options = options
        self._images = images
        self._requests = requests
        self._clients = clients
        self._rounds = rounds

    def run(self, against: bool) -> dict[str, Any]:
        """The figures: medians over the rounds, ratios within a round."""
        with ExitStack() as servers:
            port, vision = servers.enter_context(self._agent())
            other = servers.enter_context(tensorflow_server(self._path, self._options.models_dir)) if against else None
            rows = [self._row(count, port, other) for count in self._images]
            served = vision.get("/inference")[0]
        engine = self._engine_alone() if against else {}
        for row in rows if against else ():
            row["thesis"] = {
                "engine_per_second": engine[row["images"]],
                "ratio": engine[row["images"]] / row["against"]["images_per_second"],
                "counted": "the engine's call alone, without HTTP, against TensorFlow behind JSON and HTTP, as the thesis counted",
            }
        return {
            "model": self._card.model_id, "engines": served["engines"], "clients": self._clients, "requests": self._requests,
            "rounds": self._rounds, "counted": COUNTED, "rows": rows,
        }  # fmt: skip

    def _row(self, count: int, port: int, other: int | None) -> dict[str, Any]:
        from calibration.http_load import load

        width, height = self._card.input.sizes[0]
        pictures = np.random.default_rng(count).integers(0, 256, (count, height, width, self._card.input.channels), np.uint8)
        posts = {"almena": _binary(port, pictures)}
        if other is not None:
            posts["tensorflow"] = floats(other, pictures, self._card)
        for post in posts.values():
            load(post, LEAST_FOR_A_CLIENT * self._clients, self._clients)
        requests = max(LEAST_FOR_A_CLIENT * self._clients, self._requests // count)
        turns: list[dict[str, Load]] = []
        for number in range(self._rounds):
            order = list(posts.items()) if number % 2 == 0 else list(posts.items())[::-1]
            turns.append({name: load(post, requests, self._clients) for name, post in order})
        row = {"images": count, **_figures([turn["almena"] for turn in turns])}
        if other is not None:
            row["against"] = {"baseline": BASELINE, **_figures([turn["tensorflow"] for turn in turns])}
            row["ratios"] = [turn["almena"].per_second / turn["tensorflow"].per_second for turn in turns]
            row["ratio"] = median(row["ratios"])
        return row

    @contextmanager
    def _agent(self) -> Iterator[tuple[int, VisionLink]]:
        """The port of the page, and the control socket."""
        with tempfile.TemporaryDirectory(prefix="almena-http-") as folder, ExitStack() as running:
            state = Path(folder) / "state"
            state.mkdir()
            self._options.engines_dir.mkdir(parents=True, exist_ok=True)
            (state / "engines").symlink_to(self._options.engines_dir.resolve())
            config = Path(folder) / "bench.yaml"
            config.write_text(yaml.safe_dump(self._settings(state)))
            vision = VisionLink(state / "run" / "vision.sock")
            processes = [running.enter_context(_process("-m", module, str(config))) for module in ("agent.vision", "agent.uplink")]
            yield _until_ready(processes, vision, state / "run" / "page.url"), vision

    def _settings(self, state: Path) -> dict[str, Any]:
        options, most = self._options, max(self._images)
        path = str(Path(self._path).resolve()) if Path(self._path).is_file() else self._path
        served = {"name": NAME, "card": path, "batch": most, "max_delay_ms": 0, "queue": most * self._clients}
        engines = {"backend": options.backend, "precision": options.precision, "policy": options.policy, "unit": options.unit}
        return {
            "device": {"name": "bench"},
            "state_dir": str(state),
            "engines": {**engines, "models_dir": str(options.models_dir.resolve())},
            "web": {"port": 0},
            "serving": {"templates": True, "timeout_s": 60, "models": [served]},
        }

    def _engine_alone(self) -> dict[int, float]:
        """Pictures a second of the engine's own call, for each number of pictures."""
        from calibration.scenarios import offline, runner
        from engines.model import Workshop, judge_of

        shop = Workshop(self._card, self._options)
        size = self._card.input.sizes[0]
        found = {}
        for count in self._images:
            with shop.open(size, judge_of(self._card, size, self._options.models_dir), count)[0] as engine:
                found[count] = offline(runner(engine), ENGINE_S).per_second
        return found


@contextmanager
def tensorflow_server(card: str, models_dir: Path) -> Iterator[int]:
    """The port of the other way to serve a card's model. Raises AlmenaError."""
    with _process("-m", "calibration.tensorflow_server", card, str(models_dir), stdout=subprocess.PIPE) as process:
        assert process.stdout
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise AlmenaError("the server of TensorFlow did not start; its message is above")
        yield int(line)


@contextmanager
def _process(*arguments: str, stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    with beside(*arguments, stdout=stdout) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _until_ready(processes: list[subprocess.Popen[bytes]], vision: VisionLink, page: Path) -> int:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            raise AlmenaError("a process of the agent ended; its message is above")
        try:
            model = vision.get("/inference")[0]
            if model["state"] == "failed":
                raise AlmenaError(model["detail"])
            if model["state"] == "ready" and page.exists():
                return int(page.read_text().strip().rstrip("/").rpartition(":")[2])
        except VisionError:  # it has not bound its socket yet
            continue
        finally:
            time.sleep(0.2)
    raise AlmenaError(f"the model was not ready after {STARTS_WITHIN_S:.0f} s")


def _binary(port: int, pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> Post:
    """Open Inference Protocol v2 with binary tensors, both ways."""
    from calibration.http_load import Post

    data = pictures.tobytes()
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pictures.shape), "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}

    def right(body: bytes) -> bool:
        return b'"model_name":"bench"' in body and f'"shape":[{len(pictures)},'.encode() in body

    return Post(port, f"/v2/models/{NAME}/infer", headers, head + data, len(pictures), right)


def floats(port: int, pictures: np.ndarray[Any, np.dtype[np.uint8]], card: ModelCard) -> Post:
    """JSON of floats as numpy prints them, normalised as the model's graph wants them."""
    from calibration.http_load import Post

    feed = card.input
    values = ((pictures.astype(np.float32) - np.array(feed.mean, np.float32)) / np.array(feed.scale, np.float32)).astype(np.float32)
    values = values if feed.layout == "NHWC" else values.transpose(0, 3, 1, 2)

    def right(body: bytes) -> bool:
        return body.startswith(b'{"predictions":') and len(json.loads(body)["predictions"]) == len(pictures)

    body = json.dumps({"instances": values.tolist()}).encode()
    return Post(port, "/predict", {"Content-Type": "application/json"}, body, len(pictures), right)


def _figures(turns: list[Load]) -> dict[str, Any]:
    from calibration.http_load import percentile_ms

    return {
        "images_per_second": median(turn.per_second for turn in turns),
        "p50_ms": percentile_ms(turns, 50),
        "p99_ms": percentile_ms(turns, 99),
        "sent": sum(turn.sent for turn in turns),
        "answered": sum(turn.answered for turn in turns),
    }


def _text(found: dict[str, Any]) -> str:
    engines = ", ".join(f"batch {engine['batch']}: {engine['backend']} at {engine['precision']}" for engine in found["engines"])
    lines = [f"{found['model']} over HTTP ({engines}), {found['clients']} clients, {found['rounds']} rounds"]
    for row in found["rows"]:
        lines += [f"{row['images']} pictures a request, {row['sent']} requests:", f"  almena      {_line(row)}"]
        if "against" in row:
            lines += [
                f"  tensorflow  {_line(row['against'])} ({row['against']['baseline']})",
                f"  ratio       {row['ratio']:.1f}",
                f"  as the thesis counted (the engine's call alone, {row['thesis']['engine_per_second']:.0f} images/s, against TensorFlow"
                f" behind JSON and HTTP): {row['thesis']['ratio']:.1f}",
            ]
    return "\n".join([*lines, f"Counted: {found['counted']}."])


def _line(figures: dict[str, Any]) -> str:
    answered = "all answered" if figures["answered"] == figures["sent"] else f"ONLY {figures['answered']} OF {figures['sent']} ANSWERED"
    return f"{figures['images_per_second']:.0f} images/s, p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms, {answered}"
