"""Which pictures a calibration takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from calibration.errors import SamplesError
from calibration.samples import LEAST, Seen, choose, fingerprint, gather, normalised
from engines.card import ModelInput, card
from engines.preprocess import Image
from tests.fakes.classifier import save_card, stripes

pytestmark = pytest.mark.unit


def marked(pictures: list[Image]) -> list[Seen]:
    return [Seen.of(picture, picture) for picture in pictures]


def test_near_duplicates_are_taken_once() -> None:
    pictures = stripes(12)
    noisy = [np.clip(picture + np.random.default_rng(1).integers(-2, 3, picture.shape), 0, 255).astype(np.uint8) for picture in pictures]
    assert len(choose(marked([*pictures, *noisy, *pictures]), 100)) == len(choose(marked(pictures), 100)) == 12


def test_those_that_differ_most_come_first() -> None:
    dark, light = (np.clip(picture // 4 + add, 0, 255).astype(np.uint8) for picture, add in zip(stripes(2), (0, 190), strict=True))
    alike = [picture // 4 + 90 for picture in stripes(8, seed=3)]
    chosen = choose(marked([*alike, dark, light]), 3)
    means = sorted(one.picture.mean() for one in chosen)
    assert means[0] < 70
    assert means[-1] > 180


@pytest.mark.parametrize("place", [0, 100, 300], ids=["first", "amidst", "last"])
def test_rare_scenes_of_a_long_recording_stay_wherever_they_come(place: int) -> None:
    """A sample of fixed chances, which would not depend on the order, loses them."""
    usual = [picture // 4 + 90 for picture in stripes(300, seed=3)]
    rare = [np.clip(picture // 4 + add, 0, 255).astype(np.uint8) for picture, add in zip(stripes(4), (0, 0, 190, 190), strict=True)]
    chosen = {one.picture.tobytes() for one in choose(marked([*usual[:place], *rare, *usual[place:]]), 12)}
    assert chosen >= {picture.tobytes() for picture in rare}


def test_a_long_recording_does_not_fill_the_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def frames() -> Iterator[Image]:
        for _ in range(150):
            yield np.kron(random.integers(0, 256, (9, 9, 1), np.uint8), np.ones((40, 40, 3), np.uint8))

    tracemalloc.start()
    samples = gather(card("centerface"), frames(), 12, faces=lambda picture: True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (samples.seen, len(samples)) == (150, 12)
    assert peak < 40 * 640 * 384 * 3


def test_samples_are_split_and_never_overlap(tmp_path: Path) -> None:
    samples = gather(save_card(tmp_path), stripes(30), 18)
    parts = samples.ranges, samples.choices, samples.verdict
    assert [len(part) for part in parts] == [9, 5, 4]
    assert len({picture.tobytes() for part in parts for picture in part}) == len(samples) == 18
    assert samples.ranges[0].shape == (32, 32, 1)
    again, other = gather(save_card(tmp_path), stripes(30), 18), gather(save_card(tmp_path), stripes(30, seed=1), 18)
    assert samples.digest == again.digest != other.digest


def test_a_picture_and_its_mirror_image_are_for_one_part_whichever_came_first(tmp_path: Path) -> None:
    pictures = stripes(24)
    mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
    verdicts = set()
    for order in ([*pictures, *mirrored], [*mirrored, *pictures], [*pictures, *mirrored][::-1]):
        samples = gather(save_card(tmp_path), order, 48)
        assert len(samples) == 48
        parts = [{picture.tobytes() for picture in part} for part in (samples.ranges, samples.choices, samples.verdict)]
        assert all(
            {picture[:, ::-1].tobytes() for picture in part} == known
            for part, known in zip((samples.ranges, samples.choices, samples.verdict), parts, strict=True)
        )
        verdicts.add(frozenset(parts[2]))
    assert len(verdicts) == 1


def test_labelled_pictures_are_left_out(tmp_path: Path) -> None:
    pictures, model = stripes(30), save_card(tmp_path)
    labelled = gather(model, pictures[:12], 12)
    samples = gather(model, pictures, 30, avoid=[fingerprint(picture) for picture in pictures[:12]])
    assert len(samples) == 18
    taken = {picture.tobytes() for picture in (*samples.ranges, *samples.choices, *samples.verdict)}
    assert not taken & {picture.tobytes() for picture in (*labelled.ranges, *labelled.choices, *labelled.verdict)}


def test_all_parts_have_pictures_with_faces() -> None:
    told = iter(range(99))
    samples = gather(card("centerface"), stripes(30), 30, faces=lambda picture: next(told) < 9)
    assert len(samples) == 30
    assert [len(part) for part in (samples.ranges, samples.choices, samples.verdict)] == [5 + 11, 2 + 5, 2 + 5]


@pytest.mark.parametrize(
    ("count", "message"), [(0, "there is no picture"), (1, "1 pictures that differ"), (LEAST - 1, f"at least {LEAST} are needed")]
)
def test_too_few_pictures_are_an_error(tmp_path: Path, count: int, message: str) -> None:
    with pytest.raises(SamplesError, match=message):
        gather(save_card(tmp_path), stripes(count), 30)


def test_pictures_of_another_kind_are_an_error() -> None:
    with pytest.raises(SamplesError, match="finds a face in 0 of 12 pictures"):
        gather(card("centerface"), stripes(12), 12, faces=lambda picture: False)


def test_an_embedder_gets_faces_and_says_when_there_are_none() -> None:
    chips = stripes(20, seed=5)
    left = iter(chips)
    samples = gather(card("dlib-resnet"), stripes(10), 20, chips=lambda frame: [next(left), next(left)])
    assert {picture.tobytes() for picture in samples.ranges} <= {chip.tobytes() for chip in chips}
    with pytest.raises(SamplesError, match="held 0 faces"):
        gather(card("dlib-resnet"), stripes(10), 20, chips=lambda frame: [])


def test_a_picture_becomes_the_models_input() -> None:
    feed = ModelInput(layout="NCHW", colour="RGB", sizes=((2, 1),), mean=(1, 2, 3), scale=(1, 2, 4), resize="stretch")
    made = normalised(np.array([[[10, 20, 30], [13, 22, 31]]], np.uint8), feed)
    assert made.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(made[0, :, 0, 0], [29, 9, 7 / 4])
    assert normalised(np.zeros((4, 6, 3), np.uint8), feed.model_copy(update={"layout": "NHWC"})).shape == (1, 4, 6, 3)
