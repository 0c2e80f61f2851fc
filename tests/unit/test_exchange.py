"""Identities that go from one gallery to another: sealed, bound to their label, and refused where they must not come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.sharing.protocol import Label
from agent.sharing.sealing import SealError, new_key, public_key, seal, unseal
from agent.vision import exchange
from agent.vision.gallery import LEFT, Gallery, Identity, Picture
from agent.vision.gallery_store import GalleryError
from tests.fakes.gallery import face, opened, picture

pytestmark = pytest.mark.unit


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Gallery, Gallery]]:
    with closing(opened(tmp_path / "1")) as one, closing(opened(tmp_path / "2")) as other:
        yield one, other


def label(identity: Identity, **changes: Any) -> Label:
    values = {"id": identity.id, "revision": identity.revision, "origin": "cam-1", "to": "cam-2", "sealed_at": 1e9}
    return Label.model_validate({**values, **changes})


def send(one: Gallery, other: Gallery, identity: Identity) -> tuple[Label, bytes]:
    said = label(identity)
    box = one.exchange.seal(said, other.exchange.public_key)
    other.exchange.take(said, box)
    return said, box


def test_who_was_enrolled_on_one_is_known_on_the_other_with_consent_and_expiry(two: tuple[Gallery, Gallery]) -> None:
    one, other = two
    ends = time.time() + 3600
    anna = one.add("Anna", [picture(1), Picture(None, face(11, near=1))], "signed 2026-01-02", ends)
    cluster = other.clusters.assign(face(31, near=1))
    send(one, other, anna)
    known = other.get(anna.id)
    assert (known.name, known.consent, known.expires_at, known.created_at) == ("Anna", "signed 2026-01-02", ends, anna.created_at)
    assert (known.origin, known.revision, known.pictures, known.templates) == ("cam-1", 1, 2, 2)
    assert other.candidates.rank(face(1)).distance == pytest.approx(0.0, abs=1e-6)
    assert other.pictures(anna.id) == one.pictures(anna.id)
    assert other.clusters.get(str(cluster)) is None, "a cluster of somebody who is known is not unknown"
    with pytest.raises(GalleryError, match=r"enrolled on cam-1.*make changes there"):
        other.change(anna.id, name="Hanna")
    with pytest.raises(GalleryError, match="enrolled on cam-1"):
        other.add_pictures(anna.id, [picture(2)])


def test_a_box_opens_with_one_key_under_one_label_and_unchanged(two: tuple[Gallery, Gallery]) -> None:
    one, other = two
    anna = one.add("Anna", [picture(1)])
    said = label(anna)
    box = one.exchange.seal(said, other.exchange.public_key)
    for secret in (b"Anna", b"JPEG of somebody", face(1).tobytes()[:16]):
        assert secret not in box
    with pytest.raises(SealError):
        one.exchange.take(said, box)
    for change in ({"revision": 2}, {"origin": "cam-3"}, {"to": "cam-3"}, {"sealed_at": 2e9}, {"id": "p-1"}):
        with pytest.raises(SealError):
            other.exchange.take(said.model_copy(update=change), box)
    with pytest.raises(SealError):
        other.exchange.take(said, box[:-1] + bytes([box[-1] ^ 1]))
    assert other.identities() == []


def test_a_key_stays_with_its_gallery(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as gallery:
        public = gallery.exchange.public_key
    with closing(opened(tmp_path)) as gallery:
        assert gallery.exchange.public_key == public
    assert public not in (tmp_path / "gallery" / "gallery.sqlite").read_bytes()
    key = new_key()
    assert unseal(seal(b"x", public_key(key), "a"), key, "a") == b"x"
    with pytest.raises(SealError, match="no key"):
        seal(b"x", b"short", "a")


def test_a_newer_revision_takes_the_place_of_the_older_and_never_the_other_way(two: tuple[Gallery, Gallery]) -> None:
    one, other = two
    anna = one.add("Anna", [picture(1)])
    old = send(one, other, anna)
    one.change(anna.id, name="Anne")
    newer = one.add_pictures(anna.id, [picture(2, near=1)])
    assert newer.revision == 3
    with pytest.raises(GalleryError, match="not here in this revision"):
        one.exchange.seal(label(anna), other.exchange.public_key)
    send(one, other, newer)
    other.exchange.take(*old)
    assert [(known.name, known.pictures, known.revision) for known in other.identities()] == [("Anne", 2, 3)]


@pytest.mark.parametrize("held", [True, False])
def test_a_box_that_is_replayed_after_an_erasure_is_refused(two: tuple[Gallery, Gallery], held: bool) -> None:
    one, other = two
    anna = one.add("Anna", [picture(1)])
    said = label(anna)
    box = one.exchange.seal(said, other.exchange.public_key)
    if held:
        other.exchange.take(said, box)
        assert other.erase(anna.id, "ordered").pictures == 1
    else:
        other.exchange.renounce(anna.id, "ordered")
        assert other.erase(anna.id).pictures == 0
    with pytest.raises(GalleryError, match="erased here"):
        other.exchange.take(said, box)
    assert other.identities() == []


def test_who_left_with_the_site_may_come_again(two: tuple[Gallery, Gallery]) -> None:
    one, other = two
    anna = one.add("Anna", [picture(1)])
    said, box = send(one, other, anna)
    assert other.erase(anna.id, LEFT).reason == "left"
    other.exchange.take(said, box)
    other.erase(anna.id, LEFT)
    assert other.erase(anna.id, "ordered").reason == "ordered", "who is erased for good gets another receipt than who has left"
    with pytest.raises(GalleryError, match="erased here"):
        other.exchange.take(said, box)


def test_who_left_and_came_again_is_erased(two: tuple[Gallery, Gallery]) -> None:
    one, other = two
    anna = one.add("Anna", [picture(1)])
    said, box = send(one, other, anna)
    other.erase(anna.id, LEFT)
    other.exchange.take(said, box)
    assert other.get(anna.id).name == "Anna"
    assert other.erase(anna.id).reason == "requested"
    assert other.erase(anna.id).reason == "requested", "once more gives the newest receipt"


def test_what_cannot_be_taken_is_refused_and_changes_nothing(two: tuple[Gallery, Gallery], tmp_path: Path) -> None:
    one, other = two
    other.add("anna", [picture(5)])
    with pytest.raises(GalleryError, match="of that name is enrolled here already") as caught:
        send(one, other, one.add("Anna", [picture(1)]))
    assert "anna" not in str(caught.value).casefold()
    brief = one.add("Bert", [picture(2)], expires_at=time.time() + 1000)
    said = label(brief)
    box = one.exchange.seal(said, other.exchange.public_key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "time", SimpleNamespace(time=lambda: time.time() + 2000))
        with pytest.raises(GalleryError, match="time is over"):
            other.exchange.take(said, box)
    with closing(opened(tmp_path / "3")) as odd, pytest.raises(GalleryError, match="cannot be read"):
        send(odd, other, odd.add("Cleo", [Picture(None, np.ones(64, np.float32))]))
    assert [known.name for known in other.identities()] == ["anna"]


def test_templates_of_another_embedder_are_made_again_from_the_pictures_or_refused(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "1")) as one, closing(opened(tmp_path / "2", "other@1")) as other:
        send(one, other, one.add("Anna", [picture(1)]))
        [known] = other.identities()
        assert (known.pictures, known.templates, known.needs_pictures) == (1, 0, True)
        assert len(other.without_template()) == 1
        with pytest.raises(GalleryError, match="another embedder"):
            send(one, other, one.add("Bert", [Picture(None, face(2))]))


def test_of_many_pictures_the_newest_travel_and_of_the_others_the_templates(two: tuple[Gallery, Gallery]) -> None:
    one, other = two
    pictures = [Picture(bytes([seed]) * 400_000, face(seed, near=1)) for seed in range(1, 6)]
    anna = one.add("Anna", pictures)
    send(one, other, anna)
    assert (len(other.pictures(anna.id)), other.get(anna.id).templates) == (2, 5)


def test_a_gallery_of_an_earlier_version_shares_too(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "1")) as one:
        anna = one.add("Anna", [picture(1)])
        with one._store.write():
            one._store.execute("ALTER TABLE identities DROP COLUMN origin")
            one._store.execute("ALTER TABLE identities DROP COLUMN revision")
    with closing(opened(tmp_path / "1")) as one, closing(opened(tmp_path / "2")) as other:
        assert (one.get(anna.id).origin, one.get(anna.id).revision) == ("", 1)
        send(one, other, one.get(anna.id))
        assert other.get(anna.id).name == "Anna"
