"""The tuner chooses what is best, says why, and leaves nothing out silently."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.commands import tune as command
from calibration.final import LEAST, SURE, final, relative
from calibration.power import PowerMeter
from calibration.trials import possible
from calibration.tuner import Tuned, Tuner
from engines import tuning
from engines.base import EngineError
from engines.model import Workshop, judge_of, load_classifier
from engines.tuning import Choice, find
from tests.fakes.paced import CLOCK, Frugal, Quick, Site

pytestmark = pytest.mark.unit


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield Site(tmp_path, monkeypatch)
    Quick.factor = Quick.streams_help = 1.0
    Quick.told_device = "a device"


def tuned(site: Site, *backends: str, goal: Any = "latency", budget: float = 30.0, **more: Any) -> Tuned:
    return Tuner(site.card, site.options, goal, budget, backends=backends, **more).run()


def outcomes(found: Tuned) -> dict[tuple[str, str], str]:
    """Of each backend and precision in its usual way."""
    return {
        (row.choice.backend, row.choice.precision): row.outcome for row in found.rows if not row.choice.threads and not row.choice.streams
    }


def test_the_fastest_wins_and_everything_else_is_listed_with_its_reason(site: Site) -> None:
    found = tuned(site, "slow", "quick", "wrong", "broken", "tensorrt")
    assert (found.tuning.choice.backend, found.tuning.choice.precision) == ("quick", "bf16")
    assert outcomes(found) == {
        ("quick", "bf16"): "chosen", ("quick", "fp32"): "measured", ("slow", "fp32"): "measured", ("wrong", "fp16"): "refused",
        ("wrong", "fp32"): "measured", ("broken", "bf16"): "failed", ("broken", "fp32"): "failed", ("tensorrt", "any"): "not tried",
    }  # fmt: skip
    whys = {(row.choice.backend, row.choice.precision): row.why for row in found.rows}
    assert whys["wrong", "fp16"].startswith("probabilities differ by 0.4")
    assert whys["broken", "bf16"] == "small 16x16: operator Nothing is unknown"
    assert "pip install" in whys["tensorrt", "any"]
    assert found.tuning.why.startswith("best latency of ")
    assert "slow fp32" in found.tuning.why or "quick fp32" in found.tuning.why


def test_figures_are_those_of_the_goal(site: Site) -> None:
    by_choice = {row.choice.precision: row for row in tuned(site, "quick", batch=1).rows if not row.choice.threads}
    assert by_choice["bf16"].as_json("latency")["latency_p50_ms"] == pytest.approx(4, rel=0.01)
    assert by_choice["fp32"].relative == pytest.approx(9 / 4, rel=0.01)
    rate = next(row for row in tuned(site, "quick", goal="throughput", batch=4).rows if row.outcome == "chosen")
    assert rate.as_json("throughput")["throughput_per_second"] == pytest.approx(250, rel=0.01)
    assert rate.choice.batch == 4


def test_further_ways_are_tried_and_win_where_they_are_better(site: Site) -> None:
    Quick.streams_help = 0.5
    found = tuned(site, "quick", "slow", goal="throughput", batch=1)
    assert found.tuning.choice.streams == 2
    assert (found.tuning.choice.backend, found.tuning.choice.precision) == ("quick", "bf16")


def test_a_device_that_slows_down_does_not_hurt_who_comes_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second candidate on, everything takes four times as long."""
    slowed: list[str] = []

    def told(what: str, _share: float) -> None:
        slowed.append(what)
        if what.startswith("measuring frugal"):
            Quick.factor = Frugal.factor = 4.0

    monkeypatch.setattr(Frugal, "factor", 1.0)
    monkeypatch.setattr(Frugal, "pace", {"fp32": 2.0})
    found = tuned(site, "quick", "frugal", told=told)
    row = next(row for row in found.rows if row.choice.backend == "frugal" and not row.choice.threads)
    assert found.tuning.choice.backend == "frugal"
    assert row.relative == pytest.approx(1.0, rel=0.01)
    assert any("reference engine's own figures moved" in note for note in found.notes)


def test_of_two_as_good_the_more_accurate_wins(site: Site) -> None:
    assert tuned(site, "frugal").tuning.choice.precision == "fp32"


def firsts(site: Site) -> list[Choice]:
    return possible(site.card, "throughput", 1, ["quick"])[0]


def test_a_budget_that_is_used_up_is_said(site: Site) -> None:
    found = tuned(site, "quick", "slow", "wrong", budget=1.0)
    left = [row for row in found.rows if row.outcome == "not tried"]
    assert left
    assert {row.why for row in left} == {"the budget of 1 s was used up"}
    assert found.tuning.choice.backend == "quick"
    assert re.match(r"only 1 of \d+ ways could be tried in the budget of 1 s, the best of them: 4 ms", found.tuning.why)
    assert not found.tuning.complete


@pytest.mark.parametrize("budget", [1.0, 3.0, 60.0])
def test_further_ways_that_had_no_time_are_said(site: Site, budget: float) -> None:
    found = tuned(site, "quick", goal="throughput", budget=budget)
    late = sum(row.outcome == "not tried" and row.choice not in firsts(site) for row in found.rows)
    told = re.search(r"(\d+) further ways? of running the best \(threads, streams, batches\) had no time", found.tuning.why)
    assert (int(told[1]) if told else 0) == late
    assert found.tuning.complete == (budget > 1)
    assert (late > 0) == (budget < 60)


def test_fewer_bits_are_tried_first_whichever_backend_has_them(site: Site) -> None:
    precisions = [choice.precision for choice in possible(site.card, "latency", 1, ["slow", "quick", "wrong"])[0]]
    assert precisions == ["bf16", "fp16", "fp32", "fp32", "fp32"]


def test_without_any_candidate_all_reasons_are_told(site: Site) -> None:
    with pytest.raises(EngineError, match=r"nothing here can run it\n  broken bf16, failed: small 16x16: operator Nothing is unknown"):
        tuned(site, "broken")


@dataclass(eq=False)
class Entrant:
    """Costs what is scripted, then the last of it."""

    script: list[float]
    costs: list[float] = field(default_factory=list)

    def turn(self) -> None:
        self.costs.append(self.script[min(len(self.costs), len(self.script) - 1)])


def winner(*scripts: list[float], rounds: int = 20) -> tuple[int, list[int]]:
    """Whose script won, and how many rounds each was in, where there is time for `rounds` of all."""
    entrants = [Entrant(script) for script in scripts]
    best = final(entrants, Entrant.turn, lambda: max(len(one.costs) for one in entrants) >= rounds)
    return entrants.index(best), [len(one.costs) for one in entrants]


def test_a_disturbance_in_the_first_rounds_decides_nothing() -> None:
    assert winner([1.0], [5.0, 5.0, 5.0, 0.9]) == (1, [12, 12])


def test_the_final_ends_once_the_others_are_slower_beyond_doubt() -> None:
    assert winner([1.0], [1.2], [1.4, 0.1, 1.4]) == (0, [SURE, SURE, SURE])


def test_the_final_ends_once_the_others_are_as_good_beyond_doubt() -> None:
    assert winner([1.0], [1.01]) == (0, [SURE, SURE])


def test_the_final_goes_on_while_noise_hides_who_is_better() -> None:
    noisy = [0.9, 1.15] * 20
    assert winner([1.0], noisy, [1.5]) == (0, [20, 20, SURE])
    assert winner([1.0], noisy, rounds=1)[1] == [LEAST, LEAST]


def test_costs_are_compared_in_the_rounds_that_both_were_in() -> None:
    """The device became slow after the second one had left."""
    assert relative(Entrant([], [1.1] * 6), Entrant([], [1.0] * 6 + [4.0] * 9)) == pytest.approx(1.1)


def test_the_final_has_its_share_where_building_took_longer(site: Site) -> None:
    """An engine and its reference take a second and the first measurements half of one, which leaves nothing of the budget."""
    found = tuned(site, "quick", budget=1.5)
    assert [row.rounds > 2 + LEAST for row in found.rows if row.outcome == "chosen"] == [True]


def test_efficiency_needs_a_sensor(site: Site) -> None:
    with pytest.raises(EngineError, match="tells no power: no RAPL here"):
        tuned(site, "quick", goal="efficiency", meter=PowerMeter(missing="no RAPL here"))


class Watts:
    """Ten of them, by the clock of the engines: however often it is asked, and however long the machine stands still meanwhile."""

    name = "a sensor"

    def joules(self) -> float:
        return 10 * CLOCK.now


def test_efficiency_is_joules_without_idle_power(site: Site) -> None:
    meter = PowerMeter([Watts()], idle_watts=0.0)
    found = tuned(site, "quick", goal="efficiency", meter=meter, batch=1)
    chosen = next(row for row in found.rows if row.outcome == "chosen")
    assert chosen.choice.precision == "bf16"
    assert chosen.cost is not None
    assert 0 < chosen.as_json("efficiency")["net_joules_per_inference"] < 1


def test_the_next_start_runs_what_was_chosen_and_says_why(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    found = tuned(site, "quick", "slow")
    assert found.tuning == find(site.options.engines_dir, site.card, "latency")
    with caplog.at_level(logging.INFO):
        loaded = load_classifier(str(site.card_file), replace(site.options, policy="latency"))
    assert (loaded.passport.identity.backend, loaded.passport.precision) == ("quick", "bf16")
    assert loaded.why == found.tuning.why
    assert f"small runs on {found.tuning.choice}: best latency of" in caplog.text
    assert not list(site.options.engines_dir.glob(".*"))
    loaded.close()


@pytest.mark.parametrize("change", ["device", "power", "runtime", "recipe"])
def test_a_tuning_of_another_device_is_told_and_left_aside(
    site: Site, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tuned(site, "quick")
    card = site.card
    if change == "device":
        Quick.told_device = "another device"
    elif change == "power":
        monkeypatch.setattr(tuning, "power_mode", lambda: "MODE_10W")
    elif change == "runtime":
        monkeypatch.setattr(tuning, "_version", lambda name: "99")
    else:
        card = card.model_copy(update={"allowance": card.allowance.model_copy(update={"agreement": 0.9})})
    shop = Workshop(card, replace(site.options, policy="latency"))
    assert shop.tuning is None
    assert f"run `almena tune {site.card_file}`" in shop.why
    assert shop.why in caplog.text


def test_a_precision_that_fails_at_another_size_gives_way_to_fp32(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tuned(site, "quick")
    shop = Workshop(site.card, replace(site.options, policy="latency"))
    monkeypatch.setattr(Quick, "errors", {"bf16": 0.4})
    _, passport = shop.open((32, 32), judge_of(site.card, (32, 32), site.options.models_dir))
    assert passport.precision == "fp32"
    assert "runs at fp32 instead of bf16" in caplog.text


def test_a_choice_by_name_is_not_softened(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quick, "errors", {"bf16": 0.4})
    shop = Workshop(site.card, site.options, Choice(backend="quick", unit="cpu", precision="bf16", policy="latency"))
    with pytest.raises(EngineError, match="less accurate than its card allows"):
        shop.open((16, 16), judge_of(site.card, (16, 16), site.options.models_dir))


def test_the_system_is_asked_for_drivers_and_power_mode(tmp_path: Path) -> None:
    for name, text in {
        "etc/nv_tegra_release": "# R36", "proc/driver/nvidia/version": "NVRM 580", "proc/cpuinfo": "model name : A\nmodel name : A\n",
        "sys/class/drm/renderD128/device/vendor": "0x8086\n", "var/lib/nvpmodel/status": "pmode:0002",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert tuning.drivers(tmp_path)[:4] == ["# R36", "NVRM 580", "0x8086", "A"]
    assert tuning.power_mode(tmp_path) == "pmode:0002 powersave"


def test_the_command_prints_every_candidate(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "almena.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {site.options.models_dir}}}\n")
    asked = [str(site.card_file), "--policy", "latency", "--budget", "30s", "--backends", "quick,broken", "--config", str(config)]
    told = CliRunner().invoke(command.app, [*asked, "--json"])
    assert told.exit_code == 0, told.output
    [record] = json.loads(told.stdout)["tunings"]
    assert record["choice"]["backend"] == "quick"
    assert {one["outcome"] for one in record["candidates"]} >= {"chosen", "measured", "failed"}
    assert (tmp_path / "state" / "engines" / "tuned").is_dir()
    shown = CliRunner().invoke(command.app, asked)
    assert (
        "failed: broken, cpu, bf16, for latency, batch 1; broken, cpu, fp32, for latency, batch 1: small 16x16: operator Nothing is unknown"
        in shown.stdout
    )
    assert "runs on quick, cpu, bf16" in shown.stdout


def test_what_is_not_tried_is_told_from_what_is_measured(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "almena.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {site.options.models_dir}}}\n")
    asked = [str(site.card_file), "--policy", "throughput", "--budget", "1s", "--backends", "quick,tensorrt", "--config", str(config)]
    shown = CliRunner().invoke(command.app, asked).stdout
    (late,) = re.findall(r"not tried: (.*): the budget of 1 s was used up", shown)
    ways = late.split("; ")
    assert "quick, cpu, bf16, for throughput, batch 1, 1 streams" in ways
    assert "quick, cpu, bf16, for latency, batch 1" in ways
    assert "quick, cpu, bf16, for throughput, batch 16" in ways
    assert len(set(ways)) == len(ways)
    assert "not tried: tensorrt: not installed" in shown


def test_only_what_no_longer_counts_is_tuned_again_if_asked(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "almena.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {site.options.models_dir}}}\n")
    asked = [str(site.card_file), "--if-needed", "--budget", "5s", "--backends", "quick", "--config", str(config), "--json"]

    def tuned_now() -> int:
        told = CliRunner().invoke(command.app, asked)
        assert told.exit_code == 0, told.output
        return len(json.loads(told.stdout)["tunings"])

    assert [tuned_now(), tuned_now()] == [1, 0]
    monkeypatch.setattr(tuning, "power_mode", lambda: "MODE_10W")
    assert [tuned_now(), tuned_now()] == [1, 0]
    [kept] = tuning.kept(tmp_path / "state" / "engines")
    tuning.save(kept.model_copy(update={"complete": False}), tmp_path / "state" / "engines")
    assert [tuned_now(), tuned_now()] == [1, 0]


@pytest.mark.parametrize("wrong", [["--budget", "soon"], ["--budget", "0s"], ["--backends", "quick,abacus"]])
def test_wrong_arguments_are_told(site: Site, wrong: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(command.app, [str(site.card_file), *wrong])
    assert told.exit_code == 2
    assert wrong[0] in told.output
