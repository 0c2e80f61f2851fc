"""`almena bench`: what this machine reaches, as ratios measured in one run."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import typer
import yaml

from agent import settings as settings_module
from agent.commands import bench_engine, bench_http, bench_matrix, bench_parity, bench_studies
from agent.commands.process_memory import peak_mb
from agent.errors import AlmenaError
from agent.supervisor import beside
from engines.card import card

app = typer.Typer(no_args_is_help=True, add_completion=False)

STAGES = ("decode", "infer", "update", "publish", "total")
LONGEST_S = 1800.0
LOOK_S = 1.0
"""An answer of the agent costs it some milliseconds, which would be measured too."""


@app.callback()
def bench() -> None:
    """Measure throughput, latency and memory; nothing here is an estimate."""


app.command()(bench_engine.engine)
app.command()(bench_matrix.matrix)
app.command()(bench_http.http)
app.command()(bench_parity.parity)
app.command()(bench_studies.studies)


@app.command()
def stream(
    source: Annotated[Path | None, typer.Option("--source", "-s", help="A video file.", exists=True, dir_okay=False)] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the sample clip of `almena demo`.")] = False,
    task: Annotated[str, typer.Option(help="The task to run; there is only `faces`.")] = "faces",
    backend: Annotated[str, typer.Option(help="auto, or one by name.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Pipeline and bare runtimes take turns so many times; medians count.")] = 3,
    models: Annotated[Path | None, typer.Option(help="Folder of fetched models; default: that of `almena demo`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """The whole agent on a video file as fast as it goes, against decoder and engines each alone."""
    from agent.demo import fetch_models, sample_clip
    from agent.home import default_folder

    if task != "faces":
        raise typer.BadParameter("there is only: faces", param_hint="--task")
    if (source is None) != sample:
        raise typer.BadParameter("give a video file, or --sample", param_hint="--source")
    folder = models or default_folder() / "models"
    fetch_models(folder)
    source = source or sample_clip(default_folder(), folder)
    engines = default_folder() / "state" / "engines"
    with tempfile.TemporaryDirectory(prefix="almena-bench-") as scratch:
        result = StreamBench(source.resolve(), Path(scratch), folder.resolve(), engines, backend, precision).run(repeats)
    print(json.dumps(result, indent=2) if as_json else _table(result))


class StreamBench:
    """Runs the agent's two processes on a clip, in turn with the bare decoder and engines."""

    def __init__(self, clip: Path, scratch: Path, models: Path, engines: Path, backend: str, precision: str) -> None:
        self._clip = clip
        self._scratch = scratch
        self._config = scratch / "bench.yaml"
        settings = {
            "device": {"name": "bench"},
            "state_dir": str(scratch / "state"),
            "engines": {"backend": backend, "precision": precision, "models_dir": str(models)},
            "web": {"port": 0},
            "streams": [{"name": "bench", "source": {"type": "video", "path": str(clip), "pace": "fast"}, "tasks": [{"type": "faces"}]}],
        }
        self._config.write_text(yaml.safe_dump(settings))
        self._settings = settings_module.load(self._config)
        engines.mkdir(parents=True, exist_ok=True)
        (scratch / "state").mkdir()
        (scratch / "state" / "engines").symlink_to(engines.resolve())

    def run(self, repeats: int) -> dict[str, Any]:
        """The figures, medians over the turns. A turn of the pipeline is judged by the bare turns before and after it."""
        first = self._pipeline()
        engines = self._bare_engines()
        bare, turns = [self._bare(engines, first["embeddings"])], []
        for _ in range(repeats):
            turns.append(self._pipeline())
            bare.append(self._bare(engines, turns[-1]["embeddings"]))
        for turn, before, after in zip(turns, bare, bare[1:], strict=False):
            turn["frames_per_second"] = turn["frames"] / turn["seconds"]
            turn["bare_per_second"] = 2 * turn["frames"] / (sum(before.values()) + sum(after.values()))
            turn["ratio"] = turn["frames_per_second"] / turn["bare_per_second"]
        parts = {f"{name}_seconds": median(turn[name] for turn in bare) for name in bare[0]}
        ways = {"detector": engines[0].way, "embedder": engines[1].way}
        for engine in engines:
            engine.close()
        return self._summary(turns) | {"bare": parts | ways}

    def _bare(self, engines: tuple[Any, Any], embeddings: int) -> dict[str, float]:
        """Seconds that the clip takes decoder, detector and embedder, each alone."""
        from calibration.bare import decode_seconds

        frames, decode = decode_seconds(self._clip)
        return {"decode": decode, "detect": engines[0].seconds(frames), "embed": engines[1].seconds(embeddings)}

    def _bare_engines(self) -> tuple[Any, Any]:
        from agent.vision.face_kit import engine_options
        from calibration.bare import BareEngine
        from engines.store import Passport
        from engines.tuning import Choice

        options = engine_options(self._settings)
        parts = []
        batches = {"face-detection": (1,), "face-embedding": (1, 8)}
        for task, told in self._engines.items():
            passport = Passport.model_validate({name: told[name] for name in Passport.model_fields})
            identity = passport.identity
            same = identity.model_dump(include={"backend", "unit", "policy"})
            like = Choice.model_validate(same | {"precision": passport.ordered})
            _, height, width = identity.shape
            parts.append(BareEngine(card(identity.model.partition("@")[0]), options, like, (width, height), batches[task]))
        return parts[0], parts[1]

    def _pipeline(self) -> dict[str, Any]:
        """One run of both processes over the clip."""
        processes = [beside("-m", module, str(self._config)) for module in ("agent.uplink", "agent.vision")]
        try:
            metrics = self._until_finished(processes)
            peaks = [peak_mb(process.pid) for process in processes]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)
        return {
            "frames": int(metrics["frames_total"]),
            "seconds": metrics["active_seconds"],
            "detections": int(metrics["faces_total"]),
            "tracks": int(metrics["tracks_total"]),
            "embeddings": int(metrics["embeddings_total"]),
            "latency_seconds": {stage: {f"p{q}": metrics[f"{stage}_p{q}_seconds"] for q in (50, 90, 99)} for stage in STAGES},
            "peak_memory_mb": {"uplink": peaks[0], "vision": peaks[1]},
        }

    def _until_finished(self, processes: list[subprocess.Popen[bytes]]) -> dict[str, float]:
        deadline = time.monotonic() + LONGEST_S
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self._settings.control_socket)), base_url="http://vision") as client:
            while time.monotonic() < deadline:
                if any(process.poll() is not None for process in processes):
                    raise AlmenaError("a process of the agent ended; its message is above")
                time.sleep(LOOK_S)
                try:
                    health = client.get("/streams").json()[0]
                    metrics: dict[str, float] = client.get("/metrics").json().get("bench", {})
                except httpx.TransportError:
                    continue
                if health["state"] == "failed":
                    raise AlmenaError(f"the stream failed: {health['code']}: {health['detail']}")
                if failed := metrics.get("frames_failed_total"):
                    raise AlmenaError(f"{failed:.0f} frames failed, so there is nothing to compare; the agent's messages are above")
                if health["state"] == "finished" and metrics.get("frames_total", 0) == health["captured"]:
                    engines = client.get("/engines").json()
                    self._engines = {str(card(engine["model"].partition("@")[0]).task): engine for engine in engines}
                    return metrics
        raise AlmenaError(f"the clip was not finished after {LONGEST_S:.0f} s")

    def _summary(self, turns: list[dict[str, Any]]) -> dict[str, Any]:
        middle = sorted(turns, key=lambda turn: float(turn["ratio"]))[len(turns) // 2]
        return {
            **{key: middle[key] for key in ("frames", "detections", "tracks", "embeddings", "latency_seconds")},
            "frames_per_second": median(turn["frames_per_second"] for turn in turns),
            "bare_per_second": median(turn["bare_per_second"] for turn in turns),
            "ratio": median(turn["ratio"] for turn in turns),
            "ratios": [turn["ratio"] for turn in turns],
            "peak_memory_mb": {name: max(turn["peak_memory_mb"][name] for turn in turns) for name in ("vision", "uplink")},
            "engines": [
                {
                    "task": task,
                    "model": engine["identity"]["model"],
                    "backend": engine["identity"]["backend"],
                    "precision": engine["precision"],
                }
                for task, engine in self._engines.items()
            ],
        }


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['frames']} frames, {result['detections']} faces, {result['tracks']} tracks, {result['embeddings']} embeddings",
        f"{result['frames_per_second']:.1f} frames/s; decoder and engines alone {result['bare_per_second']:.1f}",
        f"ratio {result['ratio']:.3f}",
    ]
    for stage, times in result["latency_seconds"].items():
        lines.append(f"{stage:>8}: " + "  ".join(f"{name} {1000 * value:6.2f} ms" for name, value in times.items()))
    lines += [f"{engine['task']}: {engine['model']} on {engine['backend']} at {engine['precision']}" for engine in result["engines"]]
    lines.append("peak memory: " + ", ".join(f"{name} {value:.0f} MB" for name, value in result["peak_memory_mb"].items()))
    return "\n".join(lines)
