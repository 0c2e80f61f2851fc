"""The whole agent: a radiograph goes in by storescu, and a PACS has the report and the capture."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import yaml
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from tests.fakes.agent_process import AgentProcess, events
from tests.fakes.orthanc import Orthanc
from tests.fakes.ports import free_port
from tests.fakes.radiographs import instance
from tests.fakes.study_stream import chest_card
from tests.waiting import wait_until


def test_a_radiograph_is_answered_at_the_pacs_and_told_without_its_patient(tmp_path: Path) -> None:
    pacs, port, config = Orthanc(tmp_path / "pacs"), free_port(), tmp_path / "almena.yaml"
    task = {"type": "study", "model": str(chest_card(tmp_path)), "pixels": False, "margin": 0}
    content = {
        "streams": [{"name": "xray", "source": {"type": "dicom"}, "tasks": [task]}],
        "engines": {"backend": "onnxruntime", "precision": "fp32"},
        "dicom": {"receiver": {"port": port}, "destination": {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS"}},
        "web": {"enabled": False},
    }
    config.write_text(yaml.safe_dump(content))
    path = tmp_path / "one.dcm"
    path.write_bytes(instance(1))
    agent = AgentProcess(tmp_path, "run", "--config", str(config))
    try:
        pacs.start()
        agent.start()
        assert set(agent.processes()) >= {"agent.uplink", "agent.vision", "agent.dicom"}
        wait_until(lambda: (tmp_path / "almena-state" / "run" / "dicom.json").exists(), 60, "the DICOM process")
        sent = subprocess.run(["storescu", "-aec", "ALMENA", "127.0.0.1", str(port), str(path)], capture_output=True, text=True)
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: len(pacs.instances()) == 2, 90, "report and capture at the PACS")
        held = {str(one.SOPClassUID): one for one in (dcmread(BytesIO(data)) for data in pacs.instances())}
        assert set(held) == {ComprehensiveSRStorage, SecondaryCaptureImageStorage}
        assert held[ComprehensiveSRStorage].VerificationFlag == "UNVERIFIED"
        (study,) = [event for event in events(config) if event["kind"] == "study"]
        assert not any(secret in str(study) for secret in ("1337", "secret-", "nna"))
        assert study["data"]["scores"].keys() == {"covid", "normal", "pneumonia"}
        assert agent.stop() == 0
    finally:
        agent.stop()
        pacs.stop()
