"""What the hub makes of what devices say of shared identities. tests/integration/test_hub_postgres.py has the same on PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from agent.errors import UnknownError
from agent.sharing.protocol import Box, Declined, Duties, Held, Label, Own, Receipt, SharingKey, Signed, SignedReceipt, Sync
from fleet.identities import ledger, listing
from fleet.identities.keeper import Keeper
from fleet.store.database import writing
from fleet.store.erased_list import ErasedList
from fleet.store.tables import commands, devices
from tests.fakes.hub_store import EVENTS, NOW, StoredHub, message

pytestmark = pytest.mark.unit

SIGNED = Signed(certificate="", proof="")
ADA = Own(id="p-ada", name="Ada", consent="signed", expires_at=None, revision=1, pictures=1)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StoredHub]:
    one = StoredHub(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    yield one
    one.store.close()


def site(hub: StoredHub, *names: str, place: str = "lab") -> None:
    with writing(hub.store.engine) as connection:
        connection.execute(insert(devices), [{"device": name, "site": place} for name in names])
        ledger.share(connection, "test", place, True, NOW)


def says(hub: StoredHub, device: str, now: float = NOW, **said: Any) -> Duties:
    key = SharingKey(device=device, public="", signed=SIGNED)
    with writing(hub.store.engine) as connection:
        return ledger.sync(connection, device, Sync(key=key, **said), now)


def box(hub: StoredHub, identity: str, revision: int, origin: str, to: str) -> None:
    label = Label(id=identity, revision=revision, origin=origin, to=to, sealed_at=NOW)
    with writing(hub.store.engine) as connection:
        ledger.put(connection, origin, Box(label=label, sealed="c2VhbGVk", signed=SIGNED), NOW)


def proves(hub: StoredHub, device: str, identity: str) -> None:
    given = {"id": "e-1", "identity": identity, "device": device, "reason": "ordered", "erased_at": NOW, "pictures": 1, "templates": 1}
    receipt = Receipt.model_validate({**given, "clusters": 0})
    with writing(hub.store.engine) as connection:
        ledger.prove(connection, device, [SignedReceipt(receipt=receipt, signed=SIGNED)], NOW)


def shared(hub: StoredHub, identity: str = ADA.id) -> dict[str, Any]:
    with hub.store.engine.connect() as connection:
        return listing.identity(connection, identity)


def states(hub: StoredHub, identity: str = ADA.id) -> dict[str, str]:
    return {copy["device"]: copy["state"] for copy in shared(hub, identity)["copies"]}


def told(hub: StoredHub) -> list[str]:
    """Who is asked to come to the door."""
    with writing(hub.store.engine) as connection:
        found = sorted(connection.execute(select(commands.c.device).where(commands.c.name == ledger.SYNC)).scalars())
        connection.execute(commands.delete())
    return found


def test_from_the_enrolment_to_the_last_receipt_of_a_device_that_was_away(hub: StoredHub) -> None:
    site(hub, "cam-1", "cam-2")
    assert says(hub, "cam-2").sharing
    duties = says(hub, "cam-1", own=(ADA,))
    assert [(one.id, [key.device for key in one.to]) for one in duties.seal] == [("p-ada", ["cam-2"])]
    assert states(hub) == {"cam-1": "there", "cam-2": "waiting to be sealed"}
    box(hub, "p-ada", 1, "cam-1", "cam-2")
    assert told(hub) == ["cam-2"]
    assert says(hub, "cam-1", own=(ADA,)).seal == ()
    assert says(hub, "cam-2").fetch == (Held(id="p-ada", revision=1),)
    assert says(hub, "cam-2", declined=(Declined(id="p-ada", revision=1, reason="because"),)).fetch == ()
    assert shared(hub)["copies"][1]["detail"] == "because"
    assert says(hub, "cam-2", held=(Held(id="p-ada", revision=1),)).fetch == ()
    assert states(hub) == {"cam-1": "there", "cam-2": "there"}

    hub.take(EVENTS.replace("dev-9", "cam-2"), message(1, id=f"cam-2/{'a' * 16}/1", data={"identity": "p-ada", "name": "Ada"}))
    with writing(hub.store.engine) as connection:
        ledger.erase(connection, "test", "p-ada", NOW + 5)
    assert told(hub) == ["cam-1", "cam-2"]
    assert "Ada" not in json.dumps(hub.said("cam-2"))
    assert (shared(hub)["name"], shared(hub)["consent"], shared(hub)["state"]) == ("", "", "erasing")
    assert says(hub, "cam-1", own=(ADA,)).erase == ("p-ada",)
    assert says(hub, "cam-1", erased=("p-ada",)).receipts == ("p-ada",)
    proves(hub, "cam-1", "p-ada")
    month = NOW + 30 * 86400
    assert says(hub, "cam-2", month, held=(Held(id="p-ada", revision=1),)).erase == ("p-ada",)
    proves(hub, "cam-2", "p-ada")
    assert shared(hub)["state"] == "erased"
    assert says(hub, "cam-2", month, erased=("p-ada",)) == Duties(sharing=True)
    assert says(hub, "cam-1", month, own=(ADA,)).seal == (), "an id that was erased is not taken again"


def test_a_box_is_taken_from_its_origin_alone_and_given_to_its_recipient_alone(hub: StoredHub) -> None:
    site(hub, "cam-1", "cam-2", "cam-3")
    for name in ("cam-2", "cam-3"):
        says(hub, name)
    says(hub, "cam-1", own=(ADA,))
    for wrong in (
        ("p-ada", 2, "cam-1", "cam-2"),
        ("p-ada", 1, "cam-2", "cam-3"),
        ("p-ada", 1, "cam-1", "cam-9"),
        ("p-b0", 1, "cam-1", "cam-2"),
    ):
        with pytest.raises(ledger.SharingError):
            box(hub, *wrong)
    says(hub, "cam-2", own=(ADA.model_copy(update={"name": "Eve"}),))
    assert (shared(hub)["name"], shared(hub)["origin"]) == ("Ada", "cam-1")
    box(hub, "p-ada", 1, "cam-1", "cam-2")
    with hub.store.engine.connect() as connection:
        assert "c2VhbGVk" in ledger.box(connection, "cam-2", "p-ada", 1)
        for device, revision in (("cam-1", 1), ("cam-3", 1), ("cam-2", 2), ("cam-9", 1)):
            with pytest.raises(UnknownError):
                ledger.box(connection, device, "p-ada", revision)


def test_a_box_goes_once_it_is_taken_and_is_sealed_again_for_who_has_lost_it(hub: StoredHub) -> None:
    def boxes() -> list[tuple[Any, ...]]:
        return hub.sql("SELECT device FROM identity_copies WHERE box IS NOT NULL")

    site(hub, "cam-1", "cam-2")
    says(hub, "cam-2")
    says(hub, "cam-1", own=(ADA,))
    box(hub, "p-ada", 1, "cam-1", "cam-2")
    says(hub, "cam-2")
    assert boxes() == [("cam-2",)]
    held = (Held(id="p-ada", revision=1),)
    says(hub, "cam-2", held=held)
    assert (boxes(), states(hub)) == ([], {"cam-1": "there", "cam-2": "there"})
    assert says(hub, "cam-1", own=(ADA,)).seal == ()
    told(hub)
    says(hub, "cam-2")  # its gallery is a new one
    assert (told(hub), states(hub)["cam-2"]) == (["cam-1"], "waiting to be sealed")
    assert [one.id for one in says(hub, "cam-1", own=(ADA,)).seal] == ["p-ada"]
    box(hub, "p-ada", 1, "cam-1", "cam-2")
    says(hub, "cam-2", held=held)
    assert says(hub, "cam-2", erased=("p-ada",)).receipts == ("p-ada",)
    assert says(hub, "cam-1", own=(ADA,)).seal == (), "who was erased there does not come back"


def test_who_has_to_do_with_a_device_that_moves_is_told(hub: StoredHub) -> None:
    site(hub, "cam-1", "cam-2", "cam-3")
    for name in ("cam-2", "cam-3"):
        says(hub, name)
    says(hub, "cam-1", own=(ADA,))
    for moved, asked in (("cam-1", ["cam-1", "cam-2", "cam-3"]), ("cam-3", ["cam-3"]), ("cam-9", [])):
        told(hub)
        with writing(hub.store.engine) as connection:
            ledger.moved(connection, [moved], NOW)
        assert told(hub) == asked


def test_a_site_that_shares_no_longer_and_a_device_of_another_keep_nothing_of_others(hub: StoredHub) -> None:
    site(hub, "cam-1", "cam-2")
    site(hub, "yard-1", place="yard")
    held = (Held(id="p-ada", revision=1), Held(id="p-dead", revision=1))
    says(hub, "cam-2")
    says(hub, "cam-1", own=(ADA,))
    box(hub, "p-ada", 1, "cam-1", "cam-2")
    assert says(hub, "cam-2", held=held).leave == ()
    assert says(hub, "yard-1", held=held) == Duties(sharing=True, leave=("p-ada",))
    told(hub)
    with writing(hub.store.engine) as connection:
        ledger.share(connection, "test", "lab", False, NOW)
    assert told(hub) == ["cam-1", "cam-2"]
    assert says(hub, "cam-2", held=held) == Duties(leave=("p-ada",))
    with writing(hub.store.engine) as connection:
        ledger.forget_withdrawn(connection)
    assert shared(hub)["name"] == "Ada", "cam-2 has not said yet that it has her no more"
    says(hub, "cam-2")
    with writing(hub.store.engine) as connection:
        ledger.forget_withdrawn(connection)
    with pytest.raises(UnknownError):
        shared(hub)
    assert says(hub, "stranger").trouble


def test_whose_time_is_over_and_whom_an_old_copy_of_the_database_brought_back_are_erased(hub: StoredHub, tmp_path: Path) -> None:
    site(hub, "cam-1", "cam-2")
    says(hub, "cam-2")
    says(hub, "cam-1", own=(ADA.model_copy(update={"expires_at": NOW + 60}), ADA.model_copy(update={"id": "p-b0", "name": "Bo"})))
    kept = ErasedList(tmp_path / "erased")
    with writing(hub.store.engine) as connection:
        connection.execute(ledger.erased.insert().values(device="cam-1", identity="p-b0"))
    keeper = Keeper(hub.store.engine, kept)
    keeper._look(NOW)
    assert (shared(hub)["state"], shared(hub, "p-b0")["state"]) == ("shared", "erasing")
    keeper._look(NOW + 61)
    assert (shared(hub)["name"], shared(hub)["erase_by"]) == ("", "expiry")
    keeper._listed_until = 0.0
    keeper._look(NOW + 62)
    assert kept.read() >= {("cam-1", "p-ada"), ("cam-1", "p-b0")}
