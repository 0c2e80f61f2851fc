"""What simulated devices see, and the book of what they produced."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import wire
from agent.errors import SettingsError
from agent.settings import MqttSettings
from fleet.simulate import figures
from fleet.simulate.clock import DeviceClock
from fleet.simulate.crowd import Crowd
from fleet.simulate.journal import NAME, Produced
from fleet.simulate.scenario import Scenario, Step, load
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


def encoded(number: int, **options: bool) -> bytes:
    clock = DeviceClock("sim-1")
    event = figures.face("sim-1", 1, number, clock, **options)
    identity = {"device": "sim-1", "spool": "0" * 16, "seq": number, "boot_id": clock.boot_id, "clock": clock.state, "host": "h"}
    return wire.encode_event(event, **identity)  # type: ignore[arg-type]


def test_events_are_those_of_the_protocol_and_come_in_pairs() -> None:
    first, second, third = (wire.decode_event(encoded(number)).data for number in (1, 2, 3))
    assert [one["n"] for one in (first, second, third)] == [1, 2, 3]
    assert (first["type"], second["type"], first["track"]) == ("new", "end", second["track"])
    assert third["track"] != first["track"]


def test_a_gap_is_an_event_without_a_form() -> None:
    with pytest.raises(wire.WireError, match="cannot be written"):
        encoded(1, unfit=True)


def test_what_is_wrong_with_a_device_shows_in_its_telemetry() -> None:
    chance = random.Random(1)
    assert figures.system(chance, hot=True)["temperatures_c"]["cpu/0"] > 90 > figures.system(chance, hot=False)["temperatures_c"]["cpu/0"]
    (slow,), (well,) = (figures.vision(chance, 1.0, share=share, frozen=False)["streams"] for share in (0.1, 1.0))
    assert slow["processed_per_second"] < 0.2 * slow["expected_per_second"] < well["processed_per_second"]
    (frozen,) = figures.vision(chance, 1.0, share=1.0, frozen=True)["streams"]
    assert (frozen["state"], frozen["code"]) == ("frozen", "STREAM_FROZEN")


def test_a_wrong_clock_says_so() -> None:
    clock = DeviceClock("sim-1")
    assert clock.state == "synced"
    clock.off_s = -clock.wall()
    assert clock.state == "unsynced"
    assert clock.wall() < 5


def test_devices_boot_apart() -> None:
    assert DeviceClock("sim-1").boot_id == DeviceClock("sim-1").boot_id != DeviceClock("sim-2").boot_id


def test_a_book_that_a_kill_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    book = Produced(tmp_path)
    book.about_to("sim-1", 1, 1)
    book.about_to("sim-2", 1, 5)
    book.about_to("sim-1", 2, 9)
    book.close()
    with (tmp_path / NAME).open("a") as file:
        file.write("sim-1 10 1")
    again = Produced(tmp_path)
    assert again.last == {"sim-1": (2, 9), "sim-2": (1, 5)}
    again.about_to("sim-1", 10, 10)
    again.close()
    assert (tmp_path / NAME).read_text() == "sim-1 1 1\nsim-2 1 5\nsim-1 2 9\nsim-1 10 10\n"


def test_a_scenario_names_its_devices_by_site(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("sites: {north: 2, south: 1}\nmqtt: {port: 1884}\nfaults: [{fault: off, devices: [south-1]}]\n")
    scenario = load(path, {"mqtt": {"host": "broker"}})
    assert scenario.names() == ["north-1", "north-2", "south-1"]
    assert scenario.faults[0].fault == "off"
    assert (scenario.mqtt.host, scenario.mqtt.port, scenario.mqtt.delivery) == ("broker", 1884, "hub")


def test_a_fault_at_the_start_waits_for_devices_that_join_later(tmp_path: Path) -> None:
    faults = (Step(fault="frozen", for_s=600),)
    nowhere = MqttSettings(port=9, delivery="hub")
    crowd = Crowd(Scenario(mqtt=nowhere, state_dir=tmp_path, events_per_minute=0, start_per_second=10, run_s=60, faults=faults))

    def told(_text: str) -> None:
        if len((tmp_path / NAME).read_text().splitlines()) == 3:
            crowd.stop()

    assert [device["produced"] for device in crowd.run(told, 0.1)["devices"].values()] == [1, 1, 1]


def test_a_storm_ends_when_the_simulation_is_to_end(tmp_path: Path) -> None:
    storm, nowhere = Step(fault="storm", count=1_000_000), MqttSettings(port=9, delivery="hub")
    crowd = Crowd(Scenario(mqtt=nowhere, state_dir=tmp_path, sites={"sim": 1}, events_per_minute=0, faults=(storm,)))
    with ThreadPoolExecutor() as pool:
        report = pool.submit(crowd.run, lambda _text: None, 60.0)
        wait_until((tmp_path / NAME).is_file, 10, "the book")
        wait_until((tmp_path / NAME).read_text, 10, "the storm to have begun")
        crowd.stop()
        assert 0 < report.result(60)["produced"] < 1_000_000


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sites: [north]", "sites"),
        ("faults: [{fault: sleepy}]", "faults.0.fault"),
        ("faults: [{fault: hot, devices: [west-9]}]", "west-9"),
        ("colour: red", "colour"),
        ("- a list", "mapping"),
        ("mqtt: [", "cannot be read"),
    ],
)
def test_a_wrong_scenario_is_refused_with_the_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=why):
        load(path, {})
