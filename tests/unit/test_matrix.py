"""The comparison table: what is in it, what is told to be missing, and how it is written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent.commands import bench as command
from calibration.matrix import Matrix, Plan
from calibration.power import PowerMeter
from calibration.tuner import Tuner
from engines.base import EngineError
from engines.calibrated import Accuracy
from tests.fakes.paced import Quick, Site

pytestmark = pytest.mark.unit

COLUMNS = {
    "model", "backend", "unit", "precision", "batch", "latency_p50_ms", "latency_p99_ms", "throughput_per_second", "accuracy", "memory_mb",
    "file_mb", "build_s", "load_s", "joules_per_inference",
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def measured(site: Site, *backends: str, meter: PowerMeter | None = None, **plan: Any) -> dict[str, Any]:
    wanted = Plan(backends=backends, seconds=0.05, **{"batches": (1, 4), "rounds": 2, **plan})
    return Matrix([site.card], site.options, wanted, meter or PowerMeter(missing="no sensor"), lambda _what, _share: None).run()


def by_cell(found: dict[str, Any]) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(row["backend"], row["precision"], row["batch"]): row for row in found["rows"] if not row["tuned"]}


def test_rows_hold_the_figures_of_each_cell(site: Site) -> None:
    found = measured(site, "quick", "slow")
    rows = by_cell(found)
    assert set(rows) == {(*cell, batch) for cell in (("quick", "bf16"), ("quick", "fp32"), ("slow", "fp32")) for batch in (1, 4)}
    assert all(row.keys() >= COLUMNS for row in found["rows"])
    cell = rows["quick", "bf16", 4]
    assert cell["latency_p50_ms"] == pytest.approx(16, rel=0.01)
    assert cell["throughput_per_second"] == pytest.approx(250, rel=0.01)
    assert (cell["accuracy"], cell["accuracy_is"]) == (1.0, "same answers as fp32 on 10 pictures")
    assert rows["slow", "fp32", 1]["accuracy_is"] == "the reference"
    assert cell["joules_per_inference"] is None
    assert found["energy"] == "not available: no sensor"
    assert found["host"]["backends"]["quick"] == "1, a device"


def test_what_cannot_be_measured_is_listed_with_its_reason(site: Site) -> None:
    found = measured(site, "quick", "broken", "wrong", "tensorrt", precisions=("bf16", "fp16"), batches=(1,))
    assert set(by_cell(found)) == {("quick", "bf16", 1)}
    whys = {(one["backend"], one["precision"]): one["why"] for one in found["missing"]}
    assert set(whys) == {("broken", "bf16"), ("wrong", "fp16"), ("tensorrt", "any")}
    assert whys["wrong", "fp16"].startswith("probabilities differ by")


def test_a_budget_that_is_used_up_is_said(site: Site) -> None:
    found = measured(site, "quick", "slow", budget_s=2.0)
    assert by_cell(found)["quick", "bf16", 1]["rounds"] == 1
    whys = {one["why"] for one in found["missing"]}
    assert whys == {f"the budget of 2 s was used up before its turn at batch {batch}" for batch in (1, 4)}
    assert len(found["rows"]) + len(found["missing"]) == 6
    found = measured(site, "quick", "slow", budget_s=10.0, rounds=50)
    assert len(found["rows"]) == 6
    assert 1 < max(row["rounds"] for row in found["rows"]) < 50
    assert re.fullmatch(r"small: the budget of 10 s was used up in round \d+ of 50", found["notes"][-1])


def test_accuracy_on_labels_goes_before_agreement(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled = Accuracy(metric="accuracy", reference=0.98, candidate=0.97, count=117, data_sha256="0" * 64)
    monkeypatch.setattr(Matrix, "_labelled", lambda *_: (labelled,))
    rows = by_cell(measured(site, "quick", batches=(1,)))
    assert (rows["quick", "fp32", 1]["accuracy"], rows["quick", "fp32", 1]["accuracy_is"]) == (0.98, "accuracy of 117 labelled")
    assert rows["quick", "bf16", 1]["accuracy_is"].startswith("same answers")


class Joule:
    """One at every asking."""

    name, total = "a sensor", 0.0

    def joules(self) -> float:
        self.total += 1.0
        return self.total


def test_energy_is_given_where_it_is_counted(site: Site) -> None:
    found = measured(site, "slow", meter=PowerMeter([Joule()], idle_watts=0.0), batches=(1,))
    assert found["energy"] == "a sensor"
    assert found["rows"][0]["joules_per_inference"] > 0


def test_the_tuned_engine_is_a_share_of_the_best_by_hand(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibration.matrix.BY_HAND", ("quick", "slow"))
    with pytest.raises(EngineError, match=r"small is not tuned for latency here: first run `almena tune \S+small\.yaml --policy latency`"):
        measured(site, "quick", "slow", tuned=True)
    monkeypatch.setattr(Quick, "streams_help", 0.5)
    for goal in ("latency", "throughput"):
        Tuner(site.card, site.options, goal, 60.0, batch=1, backends=("quick", "slow")).run()
    found = measured(site, "quick", "slow", tuned=True, batches=(1,))
    shares = {one["goal"]: one for one in found["tuned"]}
    assert (shares["latency"]["ratio"], shares["latency"]["ratios"]) == (1.0, []), "the tuner chose what is best by hand"
    assert {row["tuned"] for row in found["rows"] if (row["backend"], row["precision"]) == ("quick", "bf16")} == {"latency", "throughput"}
    assert shares["throughput"]["ratio"] == pytest.approx(2.0, rel=0.01)
    assert shares["throughput"]["best_by_hand"] == "quick bf16"
    [row] = [row for row in found["rows"] if row["tuned"] == "throughput"]
    assert row["streams"] == 2
    assert row["latency_p50_ms"] is None


def called(site: Site, folder: Path, *arguments: str) -> Result:
    config = folder / "almena.yaml"
    config.write_text(f"state_dir: {folder / 'state'}\nengines: {{models_dir: {site.options.models_dir}}}\n")
    asked = ["matrix", str(site.card_file), "--backends", "quick,slow", "--batches", "1", "--rounds", "1", "--seconds", "0.05"]
    return CliRunner().invoke(command.app, [*asked, "--config", str(config), *arguments])


def test_the_table_is_printed_and_written(site: Site, tmp_path: Path) -> None:
    told = called(site, tmp_path, "--json", "--csv", str(tmp_path / "rows.csv"), "--plot", str(tmp_path / "rows.svg"))
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)["rows"]
    with (tmp_path / "rows.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [(row["backend"], row["precision"]) for row in written] == [(row["backend"], row["precision"]) for row in rows]
    assert written[0]["joules_per_inference"] == ""
    assert "quick cpu bf16 x1" in (tmp_path / "rows.svg").read_text()
    shown = called(site, tmp_path, "--plot", str(tmp_path / "rows.png"))
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert "images/s" in shown.stdout
    assert "energy: not available" in shown.stdout


def test_where_nothing_can_be_measured_that_is_a_failure(site: Site, tmp_path: Path) -> None:
    told = called(site, tmp_path, "--backends", "broken", "--json", "--csv", str(tmp_path / "rows.csv"))
    assert (told.exit_code, told.stdout) == (1, "")
    assert str(told.exception).startswith("nothing could be measured\nnot measured: small on broken at ")
    assert not (tmp_path / "rows.csv").exists()
    assert "no backend that was asked for computes at fp16" in str(called(site, tmp_path, "--precisions", "fp16").exception)


@pytest.mark.parametrize("wrong", [["--batches", "1,none"], ["--precisions", "fp32,fp8"], ["--backends", "abacus"], ["--budget", "soon"]])
def test_wrong_arguments_are_told(site: Site, tmp_path: Path, wrong: list[str]) -> None:
    told = called(site, tmp_path, *wrong)
    assert told.exit_code == 2
    assert wrong[0] in told.output
