"""What a device believes of what others have signed: a hub that passes its own key off as a device's is not believed."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from agent.identity.keys import Pair, new_key
from agent.sharing import vouching
from agent.sharing.vouching import VouchError, require, signed
from provisioning.ca import Authority

pytestmark = pytest.mark.unit

DAY = timedelta(days=1)


def pair(authority: Authority, name: str) -> Pair:
    key = new_key()
    return Pair(key, authority.device(name, key.public_key(), DAY))


def test_only_the_device_itself_with_a_certificate_in_force_can_vouch() -> None:
    ours, theirs = Authority.new("Ours"), Authority.new("Theirs")
    cam = pair(ours, "cam-1")
    said = signed(cam, vouching.KEY, "cam-1\0key")
    require(said, vouching.KEY, "cam-1\0key", "cam-1", ours.pem)
    wrong = [
        (said, vouching.BOX, "cam-1\0key", "cam-1", ours.pem, "not signed by cam-1"),
        (said, vouching.KEY, "cam-1\0another", "cam-1", ours.pem, "not signed by cam-1"),
        (said, vouching.KEY, "cam-1\0key", "cam-2", ours.pem, "another name"),
        (said, vouching.KEY, "cam-1\0key", "cam-1", theirs.pem, "not one of this fleet's"),
        (signed(pair(theirs, "cam-1"), vouching.KEY, "x"), vouching.KEY, "x", "cam-1", ours.pem, "not one of this fleet's"),
        (signed(pair(ours, "hub"), vouching.KEY, "x"), vouching.KEY, "x", "hub", ours.pem, "another name or purpose"),
        (signed(ours.server(["cam-1"], DAY), vouching.KEY, "x"), vouching.KEY, "x", "cam-1", ours.pem, "another name or purpose"),
        (said.model_copy(update={"proof": "AAAA"}), vouching.KEY, "cam-1\0key", "cam-1", ours.pem, "not signed by cam-1"),
        (said.model_copy(update={"certificate": "x"}), vouching.KEY, "cam-1\0key", "cam-1", ours.pem, "not one of this fleet's"),
    ]
    for given, purpose, text, device, ca, why in wrong:
        with pytest.raises(VouchError, match=why):
            require(given, purpose, text, device, ca)


def test_a_certificate_counts_at_the_moment_of_signing() -> None:
    ours = Authority.new("Ours")
    said = signed(pair(ours, "cam-1"), vouching.BOX, "box")
    require(said, vouching.BOX, "box", "cam-1", ours.pem, time.time() + 1000)
    for moment in (time.time() + 2 * 86400, time.time() - 2 * 86400):
        with pytest.raises(VouchError, match="not in force"):
            require(said, vouching.BOX, "box", "cam-1", ours.pem, moment)
