"""What tests ask of a pipeline and its outbox."""

from __future__ import annotations

from typing import Any

from agent.outbox import Outbox
from agent.vision.pipeline import Pipeline
from tests.fakes.plugins import told
from tests.waiting import wait_until


def events(outbox: Outbox) -> list[dict[str, Any]]:
    """Everything in the event lane, by number."""
    return outbox.history(after_seq=0, limit=100_000)


def numbers(outbox: Outbox) -> list[int]:
    return [data["n"] for data in told(events(outbox), "count")]


def failures(outbox: Outbox) -> list[tuple[str, str]]:
    """What was told about failing and working again."""
    states = told(events(outbox), "stream")
    return [(one["code"], one["detail"]) for one in states if one["code"] or one["detail"]]


def until_ended(pipeline: Pipeline) -> None:
    wait_until(lambda: pipeline.ended, 20, "the pipeline to end")
