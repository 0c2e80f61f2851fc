"""`almena bench studies`: radiographs from the last byte received to the event committed, alone and against the thesis's way."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer

from agent.commands.bench_http import BASELINE, floats, tensorflow_server
from agent.commands.bench_matrix import numbers
from agent.commands.studies_load import STEPS, Over, Syntax, Way, studies_agent
from agent.commands.tune import settings_of
from engines.card import card_for

if TYPE_CHECKING:
    from calibration.http_load import Load, Post

WARM_UP = 8
PAUSE_S = 0.5
"""Between two radiographs where the latency is measured: one is done before the next one comes."""
BURST_SIDE, LEAST_SIDE = 1024, 32
DATA_SIDE = 320
"""Of the pictures that `chest-xray` was trained on."""
AT_ONCE = 4
ROUNDS = 3
THESIS = "vgg-16-chest"
"""Of the bench: VGG-16's convolutions under a small head for three classes."""


def studies(
    model: Annotated[str, typer.Option(help="A model card for classification.")] = "chest-xray",
    sides: Annotated[str, typer.Option(help="Pixels of the square radiographs whose latency is measured, comma-separated.")] = "1500,3000",
    count: Annotated[int, typer.Option(min=1, max=1000, help="Radiographs of each size.")] = 20,
    burst: Annotated[
        int, typer.Option(min=0, max=10000, help="Radiographs of 1024x1024 that four associations send at once; 0: without that.")
    ] = 100,
    heat_map: Annotated[bool, typer.Option("--heat-map", help="With a heat map for each.")] = False,
    backend: Annotated[str, typer.Option(help="auto, or one by name.")] = "auto",
    over: Annotated[Over, typer.Option(help="How they are sent: C-STORE, or STOW-RS, one in a request.")] = "c-store",
    syntax: Annotated[Syntax, typer.Option(help="How their pixels are written; the time in codecs is told as `codec`.")] = "explicit",
    against: Annotated[
        Literal["tensorflow"] | None,
        typer.Option(help="In place of latencies: bursts in turns with VGG-16 in TensorFlow behind FastAPI and JSON floats."),
    ] = None,
    side: Annotated[int, typer.Option(min=LEAST_SIDE, max=4096, help="Pixels of the square radiographs that are compared so.")] = DATA_SIDE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """DICOM and vision process on radiographs of noise, sent over loopback: seconds from the last byte on.

    `total` is the sum of the steps up to the durable result; committing the event comes on top, as `commit`.
    """
    wanted = numbers(sides, "--sides", least=LEAST_SIDE)
    way = Way(over, syntax)
    run = {"model": str(Path(model).resolve()) if model.endswith((".yaml", ".yml")) else model, "heat_map": heat_map}
    card_for(str(run["model"]), "classification")
    if against:
        compared = _compared(run, backend, side, burst or WARM_UP, way)
        print(json.dumps(compared, indent=2) if as_json else _versus(compared))
        return
    result: dict[str, Any] = {f"{side}x{side}": _measured(run, backend, side, count, 1, PAUSE_S, way) for side in wanted}
    if burst:
        result[f"burst {BURST_SIDE}x{BURST_SIDE}"] = _measured(run, backend, BURST_SIDE, burst, AT_ONCE, 0.0, way)
    print(json.dumps(result, indent=2) if as_json else _text(result))


def _measured(run: dict[str, Any], backend: str, side: int, count: int, associations: int, pause_s: float, way: Way) -> dict[str, Any]:
    """Fresh processes, some radiographs to warm up, then `count`."""
    with studies_agent(run, {"backend": backend}, way) as agent:
        agent.send(side, WARM_UP, 0.0, AT_ONCE)
        refused, seconds = agent.send(side, count, pause_s, associations)
        commit = {f"p{q}": agent.metrics()[f"publish_p{q}_seconds"] for q in (50, 90, 99)}
        return {
            "studies": count - refused,
            "refused": refused,
            "studies_per_second": (count - refused) / seconds,
            "latency_seconds": agent.latencies(count - refused) | {"commit": commit},
            "vision_mb": agent.vision_mb(),
        }


def _compared(run: dict[str, Any], backend: str, side: int, count: int, way: Way) -> dict[str, Any]:
    """Almena with its model, Almena with VGG-16, and VGG-16 in TensorFlow take turns; ratios are those within a round, medians count."""
    from calibration.http_load import load
    from calibration.zoo import ensure_zoo
    from engines.card import card

    settings = settings_of(None)
    thesis = ensure_zoo([THESIS], settings.models_dir)[THESIS]
    engines = {"backend": backend, "models_dir": str(settings.models_dir.resolve())}
    with ExitStack() as running:
        post = _post(running.enter_context(tensorflow_server(thesis, settings.models_dir)), card(thesis))
        agents = {
            name: running.enter_context(studies_agent(run | {"model": path}, engines, way, settings.engines_dir))
            for name, path in (("model", run["model"]), (THESIS, str(Path(thesis).resolve())))
        }
        load(post, WARM_UP, AT_ONCE)
        for agent in agents.values():
            agent.send(side, WARM_UP, 0.0, AT_ONCE)
        turns: list[tuple[Load, dict[str, tuple[int, float]]]] = []
        for _ in range(ROUNDS):
            turns.append(
                (load(post, max(count // 4, WARM_UP), AT_ONCE), {name: a.send(side, count, 0.0, AT_ONCE) for name, a in agents.items()})
            )
        found: dict[str, Any] = {
            "side": side, "over": way.over, "syntax": way.syntax, "associations": AT_ONCE, "rounds": ROUNDS, "baseline": BASELINE,
            "thesis": {
                "studies_per_second": median(turn.per_second for turn, _ in turns),
                "sent": sum(turn.sent for turn, _ in turns), "answered": sum(turn.answered for turn, _ in turns),
            },
        }  # fmt: skip
        for name, agent in agents.items():
            rates = [(count - sent[name][0]) / sent[name][1] for _, sent in turns]
            ratios = [rate / turn.per_second for rate, (turn, _) in zip(rates, turns, strict=True)]
            found[name] = {
                "studies_per_second": median(rates), "refused": sum(sent[name][0] for _, sent in turns), "ratio": median(ratios),
                "ratios": ratios, "vision_mb": agent.vision_mb(),
            }  # fmt: skip
    return found


def _post(port: int, card: Any) -> Post:
    width, height = card.input.sizes[0]
    return floats(port, np.random.default_rng(1).integers(0, 256, (1, height, width, card.input.channels), np.uint8), card)


def _versus(found: dict[str, Any]) -> str:
    thesis = found["thesis"]
    lines = [
        f"{found['rounds']} rounds; radiographs of {found['side']}x{found['side']}, {found['associations']} callers at once",
        f"thesis's way  {thesis['studies_per_second']:.1f} studies/s, {thesis['answered']} of {thesis['sent']} answered: VGG-16,"
        f" {found['baseline']}",
    ]
    for name, what in (("model", "the shipped model"), (THESIS, "the same VGG-16")):
        one = found[name]
        lines.append(
            f"Almena        {one['studies_per_second']:.1f} studies/s, {one['refused']} refused, ratio {one['ratio']:.1f}: {what},"
            f" {found['over']} ({found['syntax']}) of {found['side']}x{found['side']}, vision {one['vision_mb']:.0f} MB at most"
        )
    return "\n".join(lines)


def _text(result: dict[str, Any]) -> str:
    lines = []
    for name, one in result.items():
        total = ", ".join(f"{key} {1e3 * seconds:.0f} ms" for key, seconds in one["latency_seconds"]["total"].items())
        steps = ", ".join(f"{step} {1e3 * times['p50']:.1f} ms" for step, times in one["latency_seconds"].items() if step in STEPS)
        lines += [
            f"{name}: {one['studies']} studies, {one['refused']} refused, {one['studies_per_second']:.1f}/s; {total}",
            f"   {steps}",
            f"   vision {one['vision_mb']:.0f} MB at most",
        ]
    return "\n".join(lines)
