"""What is asked and answered about alerts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, FiniteFloat

from fleet.api.models import Object, Request


class ChangedRule(Request):
    """A rule of alerts."""

    enabled: bool
    threshold: Object
    for_s: FiniteFloat = Field(ge=0, le=86400)
    notify: Object | None = Field(description='`{"email": true, "webhooks": [names]}`; null: all that the settings of the hub name')


class Alert(BaseModel):
    """Something that needs somebody, or did."""

    id: int
    device: str
    rule: str
    stream: str
    state: Literal["firing", "resolved"]
    since: float
    until: float | None
    detail: str
    acknowledged_by: str
    maintenance: bool = Field(description="The device is in maintenance now: nobody is told.")
    notified: dict[str, Any] | None = Field(description="Who was told: `sent`, `pending`, `given_up`, of each a list.")


class Alerts(BaseModel):
    """Newest first; `next` is for `before`."""

    alerts: list[Alert]
    next: str | None


class Rule(BaseModel):
    """A rule of alerts."""

    name: str
    enabled: bool
    threshold: dict[str, Any] | None
    for_s: float
    notify: dict[str, Any] | None


class Rules(BaseModel):
    """All of them."""

    rules: list[Rule]
