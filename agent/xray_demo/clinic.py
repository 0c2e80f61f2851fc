"""`python -m agent.xray_demo.clinic SETTINGS`: a modality that sends the demo's radiographs and tells what becomes of each, and a PACS that
receives the answers as files. Runs until SIGTERM."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from agent import settings as settings_module
from agent.dicom_settings import DicomSettings
from agent.errors import AlmenaError
from agent.process import begin, refused
from agent.settings import Settings
from agent.studies import StudyFolders, StudyResult
from agent.uplink.vision_link import VisionError, VisionLink
from agent.xray_demo.films import Film, films
from agent.xray_demo.prepare import CHEST, CLINIC, LEG
from engines.fetch import assets

WITHIN_S = 60.0
LOOK_S = 0.05
KINDS = {ComprehensiveSRStorage: "report", SecondaryCaptureImageStorage: "heat-map"}


class Pacs:
    """Keeps reports and captures as files in `folder`; `names` gives those of known studies a name by their Study Instance UID."""

    def __init__(self, dicom: DicomSettings, folder: Path) -> None:
        assert dicom.destination
        self._port = dicom.destination.port
        self._folder = folder
        self.names: dict[str, str] = {}
        self._kept = Counter[str]()
        self._entity = AE(CLINIC)
        self._entity.require_called_aet = True
        for sop_class in KINDS:
            self._entity.add_supported_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])

    def start(self) -> None:
        """Raises OSError if the port is taken."""
        self._entity.start_server(("127.0.0.1", self._port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on_store)])

    def stop(self) -> None:
        """Close the port."""
        self._entity.shutdown()

    def kept(self, name: str) -> int:
        """Answers so far to the radiograph of that name."""
        return self._kept[name]

    def _on_store(self, event: Any) -> int:
        dataset = event.dataset
        name = self.names.get(str(dataset.StudyInstanceUID), "")
        kind = KINDS[dataset.SOPClassUID]
        path = self._folder / f"{name or dataset.SOPInstanceUID}.{kind}.dcm"
        path.write_bytes(event.encoded_dataset())
        print(f"   the PACS received the {kind.replace('-', ' ')}: {path}", flush=True)
        self._kept[name] += 1
        return 0


class Modality:
    """Sends films one by one; the next when the last one is answered."""

    def __init__(self, settings: Settings, pacs: Pacs, stopping: threading.Event) -> None:
        assert settings.dicom
        self._settings = settings
        self._dicom = settings.dicom
        self._pacs = pacs
        self._stopping = stopping
        self._folders: StudyFolders | None = None

    def run(self) -> None:
        """Until every film is answered, or the agent stops."""
        if not self._until(self._ready, None):
            return
        self._folders = StudyFolders(self._settings.state_dir, self._dicom.key_file)
        models = self._settings.models_dir
        for number, film in enumerate(films(models / assets()[CHEST].filename, models / assets()[LEG].filename), 1):
            if self._stopping.is_set():
                return
            print(f"\n{number}. {film.name}: {film.title}", flush=True)
            if self._send(film, f"{number}-{film.name}"):
                self._follow(self._folders, str(film.dataset.SOPInstanceUID), f"{number}-{film.name}")

    def _ready(self) -> bool:
        try:
            running = any(stream["state"] == "running" for stream in VisionLink(self._settings.control_socket).get("/streams"))
        except VisionError:
            return False
        with socket.socket() as probe:
            return running and probe.connect_ex(("127.0.0.1", self._dicom.receiver.port)) == 0

    def _send(self, film: Film, name: str) -> bool:
        """Whether it was accepted."""
        dataset = film.dataset
        self._pacs.names[str(dataset.StudyInstanceUID)] = name
        entity = AE("MODALITY")
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        started = time.perf_counter()
        association = entity.associate("127.0.0.1", self._dicom.receiver.port, ae_title=self._dicom.receiver.ae_title, max_pdu=0)
        if not association.is_established:
            print("   the agent took no association; its messages are above", flush=True)
            return False
        status = association.send_c_store(dataset).get("Status")
        association.release()
        answer = "no answer" if status is None else f"status {status:04X}H"
        verdict = f"received and stored by the agent after {1e3 * (time.perf_counter() - started):.0f} ms" if status == 0 else "refused"
        print(f"   {verdict} ({answer})", flush=True)
        return bool(status == 0)

    def _follow(self, folders: StudyFolders, instance: str, name: str) -> None:
        item = folders.item(instance)
        if not self._until(lambda: folders.results.holds(item) or folders.failed.holds(item), WITHIN_S):
            return
        for failure in folders.failures():
            if failure.item == item:
                print(f"   checked: it cannot be used ({failure.reason}): {failure.detail}; nothing is sent to the PACS", flush=True)
                return
        result = folders.result(item)
        for line in told(result):
            print(f"   {line}", flush=True)
        answers = 1 + (result.heat_map is not None)
        self._until(lambda: self._pacs.kept(name) >= answers, WITHIN_S)

    def _until(self, true: Callable[[], bool], within_s: float | None) -> bool:
        """False where it does not come true in time, which is said, or where the agent stops."""
        deadline = None if within_s is None else time.monotonic() + within_s
        while not true():
            if deadline is not None and time.monotonic() > deadline:
                print(f"   nothing came of it within {within_s:.0f} s; the agent's messages are above", flush=True)
                return False
            if self._stopping.wait(LOOK_S):
                return False
        return True


def told(result: StudyResult) -> list[str]:
    """A result in lines."""
    scores = ", ".join(f"{label} {score:.3f}" for label, score in result.probabilities.items())
    times = ", ".join(f"{step} {1e3 * seconds:.0f} ms" for step, seconds in result.timings.items() if step != "codec" or seconds > 0)
    if result.abstained:
        return [f"no answer: {result.abstained}", *([f"scores: {scores}"] if scores else []), f"times: {times}"]
    return [
        "checked: a frontal chest radiograph by its tags and by its pixels",
        f"scores: {scores}",
        f"answer of {result.model}, unverified: {result.decision} ({result.positive} from {result.threshold:.3f} on)",
        f"times: {times}",
    ]


def epilogue(settings: Settings, results: Path, config: Path) -> str:
    """What can be looked at now."""
    assert settings.dicom
    port, title = settings.dicom.receiver.port, settings.dicom.receiver.ae_title
    return (
        f"\nalmena: that was all. Reports and heat maps are in {results} (dsrdump, or any viewer, shows them)\n"
        f"        the worklist: the page, tab Studies, user {settings.web.login.username if settings.web.login else ''},"
        f" password in {results.parent / 'password.txt'}\n"
        f"        what the hub was told: almena events --kind study --config {config}\n"
        f"        send your own: storescu -aec {title} 127.0.0.1 {port} FILE.dcm; Ctrl-C ends the demo"
    )


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    config, stopping = begin("xray_demo.clinic", __doc__)
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    try:
        settings = settings_module.load(config)
        assert settings.dicom
        pacs = Pacs(settings.dicom, config.parent / "results")
        pacs.start()
    except (AlmenaError, OSError) as error:
        return refused(error if isinstance(error, AlmenaError) else AlmenaError(f"the demo's PACS cannot start: {error}"))
    try:
        Modality(settings, pacs, stopping).run()
        if not stopping.is_set():
            print(epilogue(settings, config.parent / "results", config), flush=True)
        stopping.wait()
    finally:
        pacs.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
