"""The whole agent: a radiograph goes in by storescu, and a PACS has the report and the capture."""

from __future__ import annotations

import re
import subprocess
from io import BytesIO
from pathlib import Path

import httpx
import pytest
import yaml
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from agent.xray_demo.prepare import CHEST
from engines.fetch import ensure_asset
from tests.fakes.agent_process import AgentProcess, events
from tests.fakes.orthanc import Orthanc
from tests.fakes.ports import free_port
from tests.fakes.radiographs import ROOT_UID, instance
from tests.fakes.study_stream import chest_card
from tests.waiting import wait_until


@pytest.mark.parametrize("shipped", [False, True], ids=["a model of one's own, by C-STORE", "the model that ships, by STOW-RS"])
def test_a_radiograph_is_answered_at_the_pacs_and_told_without_its_patient(tmp_path: Path, models_dir: Path, shipped: bool) -> None:
    pacs, port, config = Orthanc(tmp_path / "pacs"), free_port(), tmp_path / "almena.yaml"
    own = {"type": "study", "model": str(chest_card(tmp_path)), "pixels": False, "margin": 0}
    task = {"type": "study", "model": "chest-xray"} if shipped else own
    chest = dcmread(ensure_asset(CHEST, models_dir)) if shipped else None
    destination = {"url": pacs.studies} if shipped else {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS"}
    content = {
        "streams": [{"name": "xray", "source": {"type": "dicom"}, "tasks": [task]}],
        "engines": {"backend": "onnxruntime", "precision": "fp32", "models_dir": str(models_dir)},
        "dicom": {"receiver": {"port": port}, "destination": destination},
        "web": {"enabled": False},
    }
    config.write_text(yaml.safe_dump(content))
    path = tmp_path / "one.dcm"
    if chest is None:
        path.write_bytes(instance(1))
    else:
        chest.save_as(path)
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
        held[ComprehensiveSRStorage].save_as(tmp_path / "report.dcm")
        printed = subprocess.run(["dsrdump", str(tmp_path / "report.dcm")], capture_output=True, text=True, check=True).stdout
        assert re.search("Classification by machine.*\n.*covid", printed, re.IGNORECASE | re.DOTALL), printed
        (study,) = wait_until(lambda: events(config, "--kind", "study"), 30, "the event")
        secrets = (
            [str(chest[name].value) for name in ("PatientName", "PatientID", "StudyInstanceUID")] if chest else [ROOT_UID, "secret-", "nna"]
        )
        assert not any(secret in str(study) for secret in secrets)
        assert study["data"]["scores"].keys() == {"covid", "normal", "pneumonia"}
        assert agent.stop() == 0
    finally:
        agent.stop()
        pacs.stop()


def test_the_demo_sends_radiographs_and_shows_what_becomes_of_them(tmp_path: Path, cache_dir: Path) -> None:
    folder = tmp_path / "xray"
    folder.mkdir()
    (folder / "models").symlink_to(cache_dir / "models")
    demo = AgentProcess(tmp_path, "demo-xray", "--dir", str(folder))
    try:
        demo.start()
        wait_until(lambda: "that was all" in demo.out, 150, "the end of the demo")
        assert "no answer: no frontal chest radiograph by its tags: body part EXTREMITY is not the chest" in demo.out
        assert "no answer: no frontal chest radiograph by its pixels: it is unlike the training images" in demo.out
        assert "it cannot be used (truncated)" in demo.out
        names = ("1-chest", "2-phantom", "3-leg", "4-mislabelled")
        assert sorted(path.name for path in (folder / "results").glob("*.report.dcm")) == [f"{name}.report.dcm" for name in names]
        maps = sorted((folder / "results").glob("*.heat-map.dcm"))
        assert len(maps) == len(re.findall("^   answer of ", demo.out, re.MULTILINE))
        printed = subprocess.run(["dsrdump", str(folder / "results" / "1-chest.report.dcm")], capture_output=True, text=True)
        assert "Classification by machine" in printed.stdout, printed.stderr
        studies = f"{demo.page}api/1/studies"
        assert httpx.get(studies, timeout=60).status_code == 401
        login = httpx.BasicAuth("demo", (folder / "password.txt").read_text().strip())
        rows = httpx.get(studies, auth=login, timeout=60).json()
        assert len(rows) == len(names) + 1
        assert sorted(row["failure"] or "" for row in rows) == [""] * len(names) + ["truncated"]
        assert "CompressedSamples" not in demo.err
        assert demo.stop() == 0
    finally:
        demo.stop()
