"""Which nodes stay in float, with a gate that answers by rule, and what the verdict is taken on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from calibration.gate import ONE_POINT, Verdict, strict
from calibration.quantise import Quantiser
from calibration.samples import normalised
from calibration.search import RejectedError, Search
from calibration.sensitivity import quantised_nodes
from engines.card import Allowance
from engines.parity import Parity
from engines.preprocess import fed
from tests.fakes.classifier import save_card, stripes

pytestmark = pytest.mark.unit
Rule = Callable[[set[str]], bool]


class Site:
    """A model of four nodes, `first`, `second`, `pool` and `last`, and a gate; `asked`: how many nodes were in float."""

    def __init__(self, folder: Path, passes: Rule) -> None:
        self.model, self.folder, self.passes = save_card(folder), folder, passes
        self.asked: list[int] = []
        self.quantiser = Quantiser(folder / "two-classes.onnx", self.model.name)
        self.quantiser.observe([normalised(fed(picture, self.model.input, 32, 32), self.model.input) for picture in stripes(9)])

    def judged(self, file: Path) -> dict[str, Verdict]:
        left = {node.name for node in quantised_nodes(onnx.load(str(file)))}
        self.asked.append(4 - len(left))
        why = "" if self.passes(left) else "far from FP32"
        return {"runtime": Verdict(why, (), Parity(pictures="samples", count=1), None)}

    def search(self, nodes: list[str], budget_s: float = 60.0) -> Search:
        return Search(self.quantiser, "u8s8", "minmax", nodes, self.judged, self.folder, budget_s, clock=iter(range(99)).__next__)


def test_the_fewest_nodes_stay_in_float(tmp_path: Path) -> None:
    site = Site(tmp_path, lambda left: "second" not in left)
    float_nodes, file = site.search(["second", "first", "last", "pool"]).run()
    assert float_nodes == ["second"]
    assert site.asked == [0, 1]
    assert file.is_file()


def test_a_model_whose_weights_all_stay_float_is_no_int8(tmp_path: Path) -> None:
    """The gate would let it through: what is left to the pool and a layer without weights is nothing to lose by."""
    site = Site(tmp_path, lambda left: not left & {"first", "second", "last"})
    search = site.search(["first", "second", "last", "pool"])
    search._orders = (["first", "second", "last", "pool", *"abc"],) * 2
    with pytest.raises(RejectedError, match="no weight would be in 8 bits"):
        search.run()


def test_a_budget_ends_the_search_with_what_passed(tmp_path: Path) -> None:
    site = Site(tmp_path, lambda left: "second" not in left)
    search = site.search(["second", "first", "last", "pool"], budget_s=0.6)
    assert search.run()[0] == ["second", "first"]
    assert site.asked == [0, 2]
    assert search.cut_short == (
        "the 1 s that the budget left for the search were over: 2 of 4 nodes stay in float,"
        " where between 1 and 1 may do; a longer --budget finds out"
    )


def test_what_others_refuse_goes_on_with_twice_as_many(tmp_path: Path) -> None:
    site = Site(tmp_path, lambda left: "second" not in left)
    search = site.search(["second", "first", "last", "pool"])
    assert search.run()[0] == ["second"]
    float_nodes, file = search.further(1, "too far on the samples that were held back")
    assert (float_nodes, file.is_file(), site.asked) == (["second", "first"], True, [0, 1, 2])
    assert (search.tried, search.cut_short) == ([(0, "runtime: far from FP32"), (1, "too far on the samples that were held back")], "")
    with pytest.raises(RejectedError, match=r"with 2 of 4 nodes in float still: on those too.*more typical, pictures, or with --labels"):
        search.further(2, "on those too")


def test_a_strict_card_allows_three_quarters_of_the_loss_on_average(tmp_path: Path) -> None:
    card = save_card(tmp_path).model_copy(
        update={"allowance": Allowance(score=0.05, mean_overlap=0.98, faces=0.01, distance=0.06, sqnr_db=20.0)}
    )
    found = strict(card).allowance
    assert (found.score, found.mean_overlap) == (0.05, pytest.approx(0.985))
    assert (found.faces, found.accuracy) == (0.01, pytest.approx(0.75 * ONE_POINT))
    assert found.sqnr_db == pytest.approx(21.25, abs=0.01)
    assert (found.overlap, found.distance) == (None, pytest.approx(0.054))
