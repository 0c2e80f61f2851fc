"""Identities, their key, their expiry and their erasure down to the bytes."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.datatypes import MAX_NAME
from agent.uplink.web.models import NewIdentity
from agent.vision.gallery import LATEST_EXPIRY, Gallery, UnknownIdentityError
from agent.vision.gallery_store import GalleryError, GalleryKeyError
from agent.vision.recognition import operating_point
from engines.card import card
from tests.fakes.gallery import SETTINGS, elsewhere, face, opened, picture

pytestmark = pytest.mark.unit


def test_an_identity_is_found_again_after_a_restart(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    anna = gallery.add("Anna", [picture(1), picture(11, near=1)], "signed 2026-01-02")
    gallery.add("Bert", [picture(2)])
    gallery.close()
    gallery = opened(tmp_path)
    ranking = gallery.candidates.rank(face(21, near=1))
    assert (ranking.identity, ranking.name) == (anna.id, "Anna")
    assert ranking.distance == pytest.approx(0.3, abs=0.05)
    assert ranking.second_best is not None
    assert ranking.second_best > 1.0
    assert gallery.get(anna.id).consent == "signed 2026-01-02"
    assert (gallery.get(anna.id).pictures, gallery.get(anna.id).templates) == (2, 2)
    assert gallery.pictures(anna.id)[0].startswith(b"JPEG of somebody")
    gallery.close()


def test_nothing_personal_is_readable_in_the_files(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    gallery.add("Annabel Unmistakable", [picture(1)], "consent of Annabel")
    gallery.clusters.assign(face(5))
    content = b"".join(path.read_bytes() for path in (tmp_path / "gallery").iterdir())
    for secret in (b"Unmistakable", b"consent of", b"JPEG of somebody", face(1).tobytes()[:16], face(5).tobytes()[:16]):
        assert secret not in content
    gallery.close()


def test_erasure_leaves_no_byte_and_a_receipt_without_personal_data(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    cluster = gallery.clusters.assign(face(31, near=1))
    stranger = gallery.clusters.assign(face(7))
    gallery.add("Bert", [picture(2)])
    with closing(sqlite3.connect(tmp_path / "gallery" / "gallery.sqlite")) as db:
        sealed_cluster = db.execute("SELECT vectors FROM clusters WHERE id = ?", (cluster,)).fetchone()[0]
    anna = gallery.add("Anna", [picture(1)])
    assert gallery.clusters.get(str(cluster)) is None, "a cluster of somebody who is enrolled is no longer unknown"
    with closing(sqlite3.connect(tmp_path / "gallery" / "gallery.sqlite")) as db:
        rows = db.execute("SELECT record FROM identities WHERE id = ?", (anna.id,)).fetchall()
        rows += db.execute("SELECT picture FROM pictures WHERE identity = ?", (anna.id,)).fetchall()
        rows += db.execute("SELECT vector FROM templates t JOIN pictures p ON t.picture = p.id WHERE identity = ?", (anna.id,)).fetchall()
    assert len(rows) == 3
    receipt = gallery.erase(anna.id)
    gallery.scrub()
    content = b"".join(path.read_bytes() for path in (tmp_path / "gallery").iterdir())
    for sealed in [row[0] for row in rows] + [sealed_cluster]:
        assert sealed[:24] not in content
        assert sealed[-24:] not in content
    assert (receipt.pictures, receipt.templates, receipt.reason) == (1, 1, "requested")
    assert "Anna" not in str(gallery.receipts())
    assert [identity.name for identity in gallery.identities()] == ["Bert"]
    assert gallery.candidates.rank(face(1)).name == "Bert"
    assert [known.id for known in gallery.clusters.all()] == [stranger]
    with pytest.raises(UnknownIdentityError):
        gallery.get(anna.id)
    gallery.close()


def test_erasing_removes_what_other_embedders_took_for_unknown(tmp_path: Path) -> None:
    dlib = card("dlib-resnet")
    with (
        closing(Gallery.open(tmp_path / "gallery", SETTINGS, dlib.model_id, operating_point(dlib))) as one,
        closing(opened(tmp_path, "gone@0123456789ab")) as other,
        closing(opened(tmp_path)) as eraser,
    ):
        anna = one.add("Anna", [picture(1)])
        for gallery, seen in ((one, 31), (other, 32)):
            for id_, _ in gallery.without_template():
                gallery.add_template(id_, face(1))
            gallery.clusters.assign(face(seen, near=1))
        stranger = one.clusters.assign(face(7))
        assert eraser.erase(anna.id).clusters == 2
        assert [known.id for known in eraser.clusters.all()] == [stranger]


def test_a_template_by_another_embedder_ends_what_it_took_for_unknown(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as one, closing(opened(tmp_path, "other@0123456789ab")) as other:
        other.clusters.assign(face(31, near=1))
        one.add("Anna", [picture(1)])
        ((id_, _),) = other.without_template()
        other.add_template(id_, face(1))
        assert other.clusters.all() == []


def test_erasing_removes_clusters_that_match(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    anna = gallery.add("Anna", [picture(1)])
    gallery.clusters.assign(face(31, near=1))
    assert gallery.erase(anna.id).clusters == 1
    assert gallery.clusters.all() == []
    gallery.close()


def test_templates_of_another_embedder_are_never_compared(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    anna = gallery.add("Anna", [picture(1)])
    gallery.close()
    gallery = opened(tmp_path, "other@ffffffffffff")
    assert gallery.candidates.rank(face(1)).identity is None
    assert gallery.get(anna.id).needs_pictures
    [(kept, image)] = gallery.without_template()
    assert image == picture(1).image
    gallery.add_template(kept, face(9))
    assert not gallery.get(anna.id).needs_pictures
    assert gallery.candidates.rank(face(9)).name == "Anna"
    gallery.close()
    gallery = opened(tmp_path)
    assert gallery.candidates.rank(face(1)).distance == pytest.approx(0, abs=1e-6)
    gallery.close()


def test_an_expired_identity_no_longer_matches_and_is_erased(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    now = time.time()
    anna = gallery.add("Anna", [picture(1)], expires_at=now + 1000)
    gallery.add("Bert", [picture(2)])
    assert gallery.expire(now + 999) == []
    [receipt] = gallery.expire(now + 1001)
    assert (receipt.identity, receipt.reason) == (anna.id, "expired")
    assert gallery.receipts() == [receipt]
    assert gallery.candidates.rank(face(1)).name == "Bert"
    gallery.close()


@pytest.mark.parametrize("when", [-1.0, 1e300, float("inf"), float("nan")])
def test_an_expiry_that_is_no_day_to_come_leaves_nothing(tmp_path: Path, when: float) -> None:
    gallery = opened(tmp_path)
    with pytest.raises(GalleryError, match="expiry must be in the future"):
        gallery.add("Anna", [picture(1)], expires_at=when)
    anna = gallery.add("Anna", [picture(1)])
    with pytest.raises(GalleryError, match="expiry must be in the future"):
        gallery.change(anna.id, expires_at=when)
    assert gallery.get(anna.id).expires_at is None
    gallery.close()


def test_an_expiry_beyond_all_dates_from_an_earlier_version_is_the_last_date(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    anna = gallery.add("Anna", [picture(1)])
    for absurd in (1e20, float("inf")):
        with gallery._store.write():
            gallery._store.execute("UPDATE identities SET expires_at = ?", absurd)
        [known] = gallery.identities()
        assert known.expires_at is not None
        assert datetime.fromtimestamp(known.expires_at, timezone.utc).year == 9999
    assert gallery.change(anna.id, name="Bea").expires_at == LATEST_EXPIRY
    gallery.close()


def test_another_process_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.vision.gallery.REFRESH_S", 0.0)
    ours = opened(tmp_path)
    before = ours.candidates.version
    elsewhere(tmp_path, "g.add('Anna', [picture(1)])")
    ours.refresh()
    assert ours.candidates.rank(face(1)).name == "Anna"
    assert ours.candidates.version > before
    elsewhere(tmp_path, "g.erase(g.find('Anna').id)")
    ours.refresh()
    assert ours.candidates.ids == ()
    ours.close()


def test_another_process_leaves_the_log_of_one_that_opened_the_gallery_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.vision.gallery.REFRESH_S", 0.0)
    ours, housekeeping = opened(tmp_path), opened(tmp_path)
    ours.add("Anna", [picture(1)])
    elsewhere(tmp_path, "assert g.find('Anna')")
    ours.add("Berta", [picture(2)])
    elsewhere(tmp_path, "assert g.find('Berta'); g.erase(g.find('Anna').id)")
    ours.refresh()
    assert ours.candidates.names == ("Berta",)
    ours.close()
    housekeeping.close()
    again = opened(tmp_path)
    assert again.candidates.names == ("Berta",)
    again.close()


def test_who_has_expired_is_hidden_at_once_and_back_when_the_clock_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.vision.gallery.REFRESH_S", 0.0)
    gallery = opened(tmp_path)
    now = time.time()
    anna = gallery.add("Anna", [picture(1)], expires_at=now + 1000)
    for moment, ids in ((now + 999, (anna.id,)), (now + 10**9, ()), (now, (anna.id,))):
        gallery.refresh(moment)
        assert gallery.candidates.ids == ids
    assert gallery.receipts() == []
    assert gallery.pictures(anna.id)
    gallery.close()


def test_an_erasure_can_be_repeated_and_is_followed_once(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    anna = gallery.add("Anna", [picture(1)])
    receipt = gallery.erase(anna.id)
    assert gallery.erase(anna.id, "expired") == receipt
    assert gallery.receipts(unfollowed=True) == [receipt]
    assert gallery.holds(anna.id)
    assert not gallery.holds("p-000000000000")
    gallery.follow(receipt.id)
    assert gallery.receipts(unfollowed=True) == []
    assert gallery.receipts() == [receipt]
    with pytest.raises(UnknownIdentityError):
        gallery.erase("p-000000000000")
    gallery.close()


def test_receipts_of_a_file_from_before_are_followed_again(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    receipt = gallery.erase(gallery.add("Anna", [picture(1)]).id)
    gallery.close()
    with closing(sqlite3.connect(tmp_path / "gallery" / "gallery.sqlite")) as db:
        db.execute("ALTER TABLE receipts DROP COLUMN followed")
    gallery = opened(tmp_path)
    assert gallery.receipts(unfollowed=True) == [receipt]
    gallery.close()


def test_no_template_is_made_of_a_picture_that_was_erased_meanwhile(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    anna = gallery.add("Anna", [picture(1)])
    gallery.close()
    gallery = opened(tmp_path, "another@0123456789ab")
    [(id_, _)] = gallery.without_template()
    gallery.erase(anna.id)
    gallery.add_template(id_, face(1))
    assert gallery._store.rows("SELECT count(*) FROM templates") == [(0,)]
    gallery.close()


def test_every_file_is_private_while_it_is_open(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        gallery = opened(tmp_path)
        gallery.add("Anna", [picture(1)])
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "gallery").iterdir()}
    assert {"gallery.sqlite", "gallery.sqlite-wal", "gallery.sqlite-shm"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    gallery.close()


def test_the_key_is_private_and_never_replaced(tmp_path: Path) -> None:
    opened(tmp_path).close()
    key = tmp_path / "gallery" / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with pytest.raises(GalleryKeyError, match="chmod 600"):
        opened(tmp_path)
    key.chmod(0o600)
    right = key.read_text()
    key.write_text("00" * 32)
    with pytest.raises(GalleryKeyError, match="another key"):
        opened(tmp_path)
    key.write_text("not a key")
    with pytest.raises(GalleryKeyError, match="64 hexadecimal"):
        opened(tmp_path)
    key.unlink()
    with pytest.raises(GalleryKeyError, match="missing"):
        opened(tmp_path)
    assert not key.exists()
    key.write_text(right)
    key.chmod(0o600)
    opened(tmp_path).close()


def test_a_systemd_credential_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "gallery.key").write_text("ab" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    opened(tmp_path).close()
    assert not (tmp_path / "gallery" / "key").exists()
    opened(tmp_path).close()


@pytest.mark.parametrize("sound", [0, 4096])
def test_a_damaged_file_is_a_typed_error(tmp_path: Path, sound: int) -> None:
    with closing(opened(tmp_path)) as gallery:
        for number in range(20):
            gallery.add(f"person {number}", [picture(number)])
    path = tmp_path / "gallery" / "gallery.sqlite"
    path.write_bytes(path.read_bytes()[:sound] + b"not a database" * 1000)
    with pytest.raises(GalleryError, match="move it away"):
        opened(tmp_path)


def test_names_are_unique_and_sane(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    anna = gallery.add("  Anna   B. ", [picture(1)])
    assert anna.name == "Anna B."
    with pytest.raises(GalleryError, match="taken"):
        gallery.add("anna b.", [picture(2)])
    for bad in ("", "   ", "x" * 101, "a\x07b"):
        with pytest.raises(GalleryError, match="1 to 100"):
            gallery.add(bad, [picture(2)])
    assert NewIdentity(name="x" * MAX_NAME).name == gallery.add("x" * MAX_NAME, [picture(2)]).name
    with pytest.raises(ValidationError):
        NewIdentity(name="x" * (MAX_NAME + 1))
    assert gallery.change(anna.id, name="Anna C.", consent="by letter").consent == "by letter"
    assert gallery.candidates.rank(face(1)).name == "Anna C."
    assert gallery.find("anna c.").id == anna.id
    gallery.close()
