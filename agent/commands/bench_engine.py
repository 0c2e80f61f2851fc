"""`almena bench engine`: one engine in detail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agent.commands.tune import cards, settings_of


def engine(
    model: Annotated[str, typer.Argument(help="A card, a card file, or a model of the bench: grey-cnn, resnet-50, vgg-16 …")],
    backend: Annotated[str, typer.Option(help="auto: as settings and tuning say.")] = "auto",
    unit: Annotated[str, typer.Option(help="auto, cpu, gpu, npu, cuda …")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"], typer.Option(help="auto: the fastest that is accurate.")
    ] = "auto",
    policy: Annotated[Literal["latency", "throughput"] | None, typer.Option(help="What the engine is built for.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads in all.")] = None,
    streams: Annotated[int | None, typer.Option(min=1, help="Calls at once.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=256, help="Pictures in a call; default: that of the tuning, or 1.")] = None,
    against: Annotated[Literal["tensorflow"] | None, typer.Option(help="Beside TensorFlow's own SavedModel signature, in turns.")] = None,
    loadgen: Annotated[bool, typer.Option("--loadgen", help="Drive the scenarios with MLCommons' LoadGen, too.")] = False,
    cross_check: Annotated[
        bool, typer.Option("--cross-check", help="Of TensorRT: beside its own trtexec, where that is installed; takes minutes.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.05, help="Of each measurement.")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, max=50, help="Rounds; medians count.")] = 5,
    tariff: Annotated[float | None, typer.Option(min=0, help="Price of a kWh.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """MLPerf's SingleStream, MultiStream and Offline; what Almena's call costs over the runtime's own loop; energy.

    Examples: `almena bench engine centerface`, `almena bench engine grey-cnn --batch 8 --against tensorflow --tariff 0.30`
    """
    from rich.console import Console

    from agent.vision.face_kit import engine_options
    from calibration.engine_bench import EngineBench
    from calibration.power import power_meter
    from engines.model import Workshop

    asked: dict[str, Any] = {"backend": backend, "unit": unit, "precision": precision, "policy": policy, "threads": threads}
    options = replace(engine_options(settings_of(config)), **{name: wish for name, wish in asked.items() if wish not in (None, "auto")})
    [card] = cards([model], options)
    choice = Workshop(card, options).choice.model_copy(update={"streams": streams}) if streams else None
    with Console(stderr=True).status(card.name) as status:
        bench = EngineBench(card, options, choice, batch, seconds, repeats)

        def told(what: str) -> None:
            status.update(f"{card.name}: {what}")

        found = bench.run(power_meter(), tariff, against is not None, loadgen, cross_check, told)
    print(json.dumps(found, indent=2) if as_json else _text(found, tariff))


def _text(found: dict[str, Any], tariff: float | None) -> str:
    single, multi, whole = (found["scenarios"][name] for name in ("single_stream", "multi_stream", "offline"))
    way = ", ".join(f"{found[name]} {name}" for name in ("threads", "streams") if found[name])
    lines = [
        f"{found['model']} on {found['backend']} ({found['unit']}) at {found['precision']}, batch {found['batch']},"
        f" built for {found['policy']}{', ' + way if way else ''}; opened in {found['opened_s']:.2f} s",
        f"why: {found['why']}",
        *([f"accuracy: {found['parity']['note']}"] if found["parity"] and found["parity"]["note"] else []),
        f"SingleStream: p90 {single['result_p90_ms']:.3f} ms (p50 {single['p50_ms']:.3f}, p99 {single['p99_ms']:.3f})",
        f"MultiStream:  p99 {multi['result_p99_ms']:.3f} ms for 8 images (p50 {multi['p50_ms']:.3f})",
        f"Offline:      {whole['result_per_second']:.1f} images/s",
        *_loadgen(found.get("loadgen")),
        *_transfers(found["transfers"]),
        *_overhead(found["overhead"]),
        *_cross_check(found.get("cross_check")),
        *_against(found.get("against")),
        *_energy(found["energy"], tariff),
        "In the words of MLPerf Inference, but shorter than its rules ask for: these are no MLPerf results.",
    ]
    return "\n".join(lines)


def _loadgen(found: dict[str, float] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"by LoadGen:   SingleStream p90 {found['single_stream_p90_ms']:.3f} ms, MultiStream p99 {found['multi_stream_p99_ms']:.3f} ms,"
        f" Offline {found['offline_per_second']:.1f} images/s"
    ]


def _transfers(found: dict[str, Any]) -> list[str]:
    alone = f"{found['exclusive_p50_ms']:.3f} ms" if found["exclusive_p50_ms"] is not None else "unknown"
    return [f"transfers:    {found['inclusive_p50_ms']:.3f} ms with, {alone} without{': ' + found['note'] if found['note'] else ''}"]


def _overhead(found: dict[str, Any]) -> list[str]:
    if "missing" in found:
        return [f"overhead:     not measured: {found['missing']}"]
    call, rate = found["call"], found["throughput"]
    verdict = "within" if found["within_goal"] else "beyond"
    return [
        f"overhead:     a call {call['almena_p50_ms']:.3f} ms, the runtime's own {call['bare_p50_ms']:.3f}: ratio {call['ratio']:.3f},"
        f" {call['microseconds']:+.0f} us",
        f"              {rate['almena_per_second']:.1f} images/s, the runtime's own loop {rate['bare_per_second']:.1f}:"
        f" ratio {rate['ratio']:.3f}, {rate['microseconds']:+.0f} us a call; both are judged: {verdict} 5 % or 50 us",
    ]


def _cross_check(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    if "missing" in found:
        return [f"cross-check:  not measured: {found['missing']}"]
    return [
        f"cross-check:  trtexec {found['images_per_second']:.1f} images/s (ours: {found['throughput_ratio']:.3f} of it),"
        f" {found['latency_ms']:.3f} ms a call with its copies (ours: {found['latency_ratio']:.3f} times), {found['gpu_ms']:.3f} on the GPU"
    ]


def _against(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"against:      {found['almena_per_second']:.1f} images/s, TensorFlow's SavedModel signature {found['baseline_per_second']:.1f}"
        f" (batch {found['batch']}, {found['callers']} callers): {found['ratio']:.2f} times"
    ]


def _energy(found: dict[str, Any], tariff: float | None) -> list[str]:
    if "missing" in found:
        return [f"energy:       {found['missing']}"]
    million = found["million"]
    price = f", {million['cost']:.2f} at {tariff:g} a kWh" if tariff is not None else ""
    return [
        f"energy:       {1e3 * found['joules_per_inference']:.2f} mJ an image,"
        f" {1e3 * found['net_joules_per_inference']:.2f} without idle power ({found['source']}); a million: {million['kwh']:.3f} kWh{price}"
    ]
