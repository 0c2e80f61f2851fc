"""Pseudonymous clusters of unknown persons."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.settings import ClusterSettings, GallerySettings
from agent.vision.gallery import UnknownIdentityError
from tests.fakes.gallery import face, opened

pytestmark = pytest.mark.unit


def test_people_in_one_picture_never_share_a_cluster(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    clusters = gallery.clusters
    first = str(clusters.assign(face(1)))
    poor = face(2)
    second = str(clusters.assign(poor))
    assert clusters.follow(second, poor, face(11, near=1), apart={first}) == second
    assert clusters.assign(face(12, near=1), apart={first, second}) not in (first, second)
    gallery.close()


def test_a_stranger_keeps_the_pseudonym_across_visits_and_restarts(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    first = gallery.clusters.assign(face(1))
    other = gallery.clusters.assign(face(2))
    assert first is not None
    assert first.startswith("u-")
    assert first != other
    gallery.close()
    gallery = opened(tmp_path)
    assert gallery.clusters.assign(face(11, near=1)) == first
    assert [cluster.sightings for cluster in gallery.clusters.all() if cluster.id == first] == [2]
    gallery.close()


def test_clusters_of_one_person_become_one_under_the_older_id(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    older = gallery.clusters.assign(face(1), now=1000.0)
    poor = face(2)
    younger = gallery.clusters.assign(poor, now=1001.0)
    other = gallery.clusters.assign(face(3), now=1002.0)
    assert gallery.clusters.follow(str(younger), poor, face(11, near=1), now=1003.0) == older
    assert {(cluster.id, cluster.sightings) for cluster in gallery.clusters.all()} == {(older, 2), (other, 1)}
    assert gallery.clusters.assign(poor, now=1004.0) not in (older, younger, other), "what the poor view looked like is forgotten"
    assert gallery.clusters.follow(str(younger), poor, face(12, near=1), now=1005.0) == older, "an id that is gone is found again"
    gallery.close()


def test_a_better_template_of_a_cluster_keeps_its_id(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    poor, good = face(1), face(2)
    cluster = gallery.clusters.assign(poor)
    assert gallery.clusters.follow(str(cluster), poor, good) == cluster
    assert gallery.clusters.assign(good) == cluster
    assert [known.sightings for known in gallery.clusters.all()] == [2]
    gallery.close()


def test_clusters_expire_are_capped_and_can_be_switched_off(tmp_path: Path) -> None:
    gallery = opened(tmp_path, settings=GallerySettings(clusters=ClusterSettings(max_age_s=100, max_count=2)))
    first, second, third = (gallery.clusters.assign(face(seed), now=1000.0 + seed) for seed in (1, 2, 3))
    assert [cluster.id for cluster in gallery.clusters.all()] == [third, second]
    assert gallery.clusters.expire(now=1102.5) == 1
    assert [cluster.id for cluster in gallery.clusters.all()] == [third]
    assert gallery.clusters.assign(face(1), now=1102.5) != first
    gallery.close()
    gallery = opened(tmp_path, settings=GallerySettings(clusters=ClusterSettings(enabled=False)))
    assert gallery.clusters.all() == []
    assert gallery.clusters.assign(face(3)) is None
    gallery.close()


def test_naming_a_cluster_keeps_its_templates(tmp_path: Path) -> None:
    gallery = opened(tmp_path)
    cluster = gallery.clusters.assign(face(1))
    identity = gallery.name_cluster(str(cluster), "Anna", "asked at the door")
    assert (identity.pictures, identity.templates) == (1, 1)
    assert gallery.candidates.rank(face(1)).name == "Anna"
    assert gallery.clusters.all() == []
    with pytest.raises(UnknownIdentityError):
        gallery.name_cluster("u-000000", "Bert")
    gallery.close()
    gallery = opened(tmp_path, "other@ffffffffffff")
    assert gallery.get(identity.id).needs_pictures
    assert gallery.without_template() == []
    gallery.close()
