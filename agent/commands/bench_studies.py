"""`almena bench studies`: radiographs from the last byte received to the event committed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
import yaml

from agent import settings as settings_module
from agent.commands.bench_matrix import numbers
from agent.commands.process_memory import peak_mb
from agent.errors import AlmenaError
from agent.outbox import Outbox
from agent.settings import Settings

LONGEST_S = 300.0
LOOK_S = 0.1
WARM_UP = 8
PAUSE_S = 0.5
"""Between two radiographs where the latency is measured: one is done before the next one comes."""
STEPS = ("queue", "decode", "codec", "preprocess", "infer", "explain", "publish")


def studies(
    model: Annotated[str, typer.Option(help="A model card for classification.")] = "chest-xray",
    sides: Annotated[str, typer.Option(help="Pixels of the square radiographs whose latency is measured, comma-separated.")] = "1500,3000",
    count: Annotated[int, typer.Option(min=1, max=1000, help="Radiographs of each size.")] = 20,
    burst: Annotated[
        int, typer.Option(min=0, max=10000, help="Radiographs of 1024x1024 that four associations send at once; 0: without that.")
    ] = 100,
    heat_map: Annotated[bool, typer.Option("--heat-map", help="With a heat map for each.")] = False,
    backend: Annotated[str, typer.Option(help="auto, or one by name.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """DICOM and vision process on uncompressed radiographs of noise, sent by C-STORE over loopback: seconds from the last byte on.

    `total` is the sum of the steps up to the durable result; committing the event comes on top, as `commit`.
    """
    wanted = numbers(sides, "--sides")
    run = {"model": str(Path(model).resolve()) if model.endswith((".yaml", ".yml")) else model, "heat_map": heat_map}
    result: dict[str, Any] = {f"{side}x{side}": _measured(run, backend, side, count, 1, PAUSE_S) for side in wanted}
    if burst:
        result["burst 1024x1024"] = _measured(run, backend, 1024, burst, 4, 0.0)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for name, one in result.items():
        total = ", ".join(f"{key} {1e3 * seconds:.0f} ms" for key, seconds in one["latency_seconds"]["total"].items())
        print(f"{name}: {one['studies']} studies, {one['refused']} refused, {one['studies_per_second']:.1f}/s; {total}")
        print("   " + ", ".join(f"{step} {1e3 * times['p50']:.1f} ms" for step, times in one["latency_seconds"].items() if step in STEPS))
        print(f"   vision {one['vision_mb']:.0f} MB at most")


def _measured(run: dict[str, Any], backend: str, side: int, count: int, associations: int, pause_s: float) -> dict[str, Any]:
    """Fresh processes, some radiographs to warm up, then `count`."""
    with tempfile.TemporaryDirectory(prefix="almena-bench-") as scratch, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        config = Path(scratch) / "bench.yaml"
        task = {"type": "study", "pixels": False, "margin": 0.0, **run}
        content = {
            "state_dir": "state", "engines": {"backend": backend}, "dicom": {"receiver": {"port": port}},
            "streams": [{"name": "xray", "source": {"type": "dicom"}, "tasks": [task]}],
        }  # fmt: skip
        config.write_text(yaml.safe_dump(content))
        settings = settings_module.load(config)
        processes = [subprocess.Popen([sys.executable, "-m", module, str(config)]) for module in ("agent.vision", "agent.dicom")]
        try:
            return _figures(settings, processes, port, side, count, associations, pause_s)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


def _figures(
    settings: Settings, processes: list[subprocess.Popen[bytes]], port: int, side: int, count: int, associations: int, pause_s: float
) -> dict[str, Any]:
    _until(lambda: _listens(port) and settings.control_socket.exists(), processes)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(settings.control_socket)), base_url="http://vision") as client:

        def metrics() -> dict[str, float]:
            found: dict[str, float] = client.get("/metrics").json().get("xray", {})
            return found

        def sent(first: int, last: int, pause: float, at_once: int) -> int:
            """How many were refused; returns when the others are committed."""
            before = metrics().get("frames_total", 0)
            shares = [range(first + number, last, at_once) for number in range(at_once)]
            with ThreadPoolExecutor(at_once) as pool:
                refused = sum(pool.map(lambda share: _send(port, side, share, pause), shares))
            _until(lambda: metrics().get("frames_total", 0) >= before + last - first - refused, processes)
            return refused

        sent(0, WARM_UP, 0.0, 4)
        started = time.perf_counter()
        refused = sent(WARM_UP, WARM_UP + count, pause_s, associations)
        seconds = time.perf_counter() - started
        commit = {f"p{q}": metrics()[f"publish_p{q}_seconds"] for q in (50, 90, 99)}
        return {
            "studies": count - refused,
            "refused": refused,
            "studies_per_second": (count - refused) / seconds,
            "latency_seconds": _latencies(settings, count - refused) | {"commit": commit},
            "vision_mb": peak_mb(processes[0].pid),
        }


def _latencies(settings: Settings, count: int) -> dict[str, dict[str, float]]:
    """Percentiles of each step and of their sum over the last `count` studies; `codec` is a part of `decode`."""
    with closing(Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)) as outbox:
        told = [envelope["data"]["timings"] for envelope in outbox.history(after_seq=0, limit=100_000, kind="study")][-count:]
    times = {step: [one[step] for one in told if step in one] for step in STEPS}
    times["total"] = [sum(seconds for step, seconds in one.items() if step != "codec") for one in told]
    return {name: {f"p{q}": float(np.percentile(found, q)) for q in (50, 95, 99)} for name, found in times.items() if found}


def _send(port: int, side: int, numbers: range, pause_s: float) -> int:
    """Radiographs over one association; how many were refused."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
    from pynetdicom import AE

    node = AE("BENCH")
    node.maximum_pdu_size = 0
    node.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    association = node.associate("127.0.0.1", port, ae_title="ALMENA")
    if not association.is_established:
        return len(numbers)
    refused = 0
    pixels = np.random.default_rng(side).integers(0, 4096, (side, side), np.uint16)
    for number in numbers:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, f"1.2.3.4.{side}.{number + 1}"
        dataset.Modality, dataset.ViewPosition, dataset.BodyPartExamined = "DX", "PA", "CHEST"
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = "MONOCHROME2", 1, 0
        dataset.Rows = dataset.Columns = side
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.add_new("PixelData", "OW", (pixels ^ (number & 0xFFF)).tobytes())
        refused += association.send_c_store(dataset).get("Status") != 0
        time.sleep(pause_s)
    association.release()
    return refused


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _until(condition: Any, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            raise AlmenaError("a process of the agent ended; its message is above")
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(LOOK_S)
    raise AlmenaError(f"the radiographs were not analysed within {LONGEST_S:.0f} s; the agent's messages are above")
