"""Bodies of requests and answers, for checking and for the OpenAPI description. Times are Unix seconds."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from fleet.accounts import Role

Label = Annotated[str, StringConstraints(strip_whitespace=True, max_length=64)]


Object = dict[str, Any]
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON writes it."""


class Request(BaseModel):
    """A body in which an unknown key is an error, and so is what cannot be written on: NaN, NUL, half a surrogate pair, a deep nesting."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _can_be_written_on(cls, said: Any) -> Any:
        try:
            text = json.dumps(said, ensure_ascii=False, allow_nan=False, default=str)
        except RecursionError:
            raise ValueError("this is nested too deeply") from None
        text.encode()  # a ValueError
        if NUL.search(text):
            raise ValueError("a text holds the character NUL")
        return said


class Credentials(Request):
    """A login."""

    username: str = Field(max_length=200)
    password: str = Field(max_length=1000)


class NewUser(Request):
    """A person."""

    name: str = Field(max_length=64)
    password: str = Field(max_length=1000)
    role: Role


class ChangedUser(Request):
    """Another password or role; what is left out stays."""

    password: str | None = Field(None, max_length=1000)
    role: Role | None = None


class OwnPassword(Request):
    """Another password of whoever asks."""

    old: str = Field(max_length=1000)
    new: str = Field(max_length=1000)


class NewKey(Request):
    """A program."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    role: Role
    expires_at: FiniteFloat | None = Field(None, description="null: it has no end")


class DevicePatch(Request):
    """What people say of a device; what is left out stays."""

    site: Label | None = None
    group: Label | None = None
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] | None = None


class NewCommand(Request):
    """Something for a device to do once."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    args: Object = {}
    expires_s: FiniteFloat = Field(60.0, gt=0, le=86400, description="A device that has not taken it by then leaves it.")


class WantedState(Request):
    """Desired settings: sections of the agent's settings file."""

    state: Object


class NewDesired(Request):
    """Desired settings; null takes them back. With `revision`, only if that is still the newest."""

    state: Object | None
    revision: int | None = None


class ProblemDocument(BaseModel):
    """An error, RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None


class Me(BaseModel):
    """Who asks."""

    name: str
    role: Role


class User(BaseModel):
    """A person."""

    name: str
    role: Role
    created_at: float


class Users(BaseModel):
    """All of them."""

    users: list[User]


class Key(BaseModel):
    """An API key, without its secret."""

    id: str
    name: str
    role: Role
    created_by: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None


class Keys(BaseModel):
    """All of them."""

    keys: list[Key]


class MadeKey(BaseModel):
    """A new API key; `key` is shown here once."""

    id: str
    key: str


class Entry(BaseModel):
    """A change that somebody made."""

    id: int
    at: float
    actor: str
    action: str
    target: str
    outcome: str
    detail: dict[str, Any] | None


class Journal(BaseModel):
    """Newest first; `next` is for `before`."""

    audit: list[Entry]
    next: str | None


class DeviceRow(BaseModel):
    """A device in the list."""

    device: str
    state: str = Field(description="online, stale, offline, stopped; empty: it never said")
    seen_at: float | None
    status_at: float | None
    agent: str
    models: dict[str, Any] | None
    boot_id: str
    site: str
    group: str
    note: str
    figures: dict[str, float] | None = Field(description="Its newest metrics, flat.")
    engines: list[str] | None = Field(description="Model, backend and precision of each.")
    telemetry_at: float | None
    losses: int
    alerts: int = Field(description="How many are firing.")
    maintenance: float | None = Field(description="Until when it is in maintenance.")
    desired_revision: int | None
    reported_revision: int | None


class Devices(BaseModel):
    """A page; `next` is for `after`."""

    devices: list[DeviceRow]
    total: int
    next: str | None


class Device(DeviceRow):
    """All that is known of one."""

    telemetry: dict[str, Any] | None = Field(description="Its newest sample.")
    reported: dict[str, Any] | None
    reported_at: float | None
    desired_at: float | None
    desired_by: str


class Fleet(BaseModel):
    """All devices in a few numbers."""

    total: int
    states: dict[str, int]
    alerting: int = Field(description="Devices with firing alerts.")
    unacknowledged: int = Field(description="Firing alerts that nobody sees to, but for devices in maintenance.")
    sites: list[str]
    groups: list[str]


class Series(BaseModel):
    """A metric over time."""

    metric: str
    step: float = Field(description="Seconds between points; 0: as they came.")
    points: list[tuple[float, float, float, float]] = Field(description="Time, mean, lowest, highest.")


class LossRow(BaseModel):
    """Events that a device has declared as lost."""

    lane: str
    spool: str
    reason: str
    count: int
    ranges: list[tuple[int, int]]
    since: float
    until: float


class MissingRow(BaseModel):
    """Numbers of a spool, or between it and the next of its lane, that are neither stored nor declared as lost."""

    spool: str
    lane: str
    count: int
    since: float | None = Field(description="When the lowest of them was first missed.")
    ranges: list[tuple[int, int]] = Field(description="The lowest hundred.")


class Losses(BaseModel):
    """All of a device's. `total`: events that are lost for good. `missing`: on their way, or lost without a word."""

    losses: list[LossRow]
    total: int
    missing: list[MissingRow]
    missing_total: int
    begins: dict[str, int] = Field(
        description="By lane, the lowest number that this hub knows, where earlier ones never came or are forgotten."
    )


class Event(BaseModel):
    """As the device sent it, with `at`, the effective time, and what it is searched by."""

    id: str
    device: str
    stream: str
    kind: str
    type: str
    subject: str
    at: float
    captured_at: float
    received_at: float
    clock: str
    model: str
    picture: bool = Field(description="Whether its device has sent a picture: `events/{id}/picture`.")
    data: Any


class Events(BaseModel):
    """Newest first; `next` is for `before`."""

    events: list[Event]
    next: str | None


class Reply(BaseModel):
    """What a device answered."""

    ok: bool
    code: str
    detail: str
    result: Any = None


class Command(BaseModel):
    """A command and what became of it."""

    id: str
    device: str
    name: str
    args: dict[str, Any] | None
    by: str
    at: float
    expires_at: float
    state: Literal["queued", "sent", "done", "failed", "expired"]
    reply: Reply | None
    reply_at: float | None


class Commands(BaseModel):
    """Newest first."""

    commands: list[Command]


class Desired(BaseModel):
    """What is wanted of a device, and what it reports."""

    state: dict[str, Any] | None
    revision: int | None
    by: str
    at: float | None
    sent: bool = Field(description="Whether the broker has it.")
    reported: dict[str, Any] | None
    reported_revision: int | None
    reported_at: float | None
    outcome: Literal["applied", "trying", "refused", "waiting"] | None = Field(
        description="What became of `revision`; null: none is wanted."
    )
    errors: list[str]


class Change(BaseModel):
    """A value that differs; null: there is none."""

    path: str
    before: Any
    after: Any


class Difference(BaseModel):
    """What would change against the newest desired settings."""

    changes: list[Change]


class Revision(BaseModel):
    """Of the desired settings."""

    revision: int


class Health(BaseModel):
    """Whether the hub works. `trouble` is why not, beside a broker that is not there; empty while it does."""

    ready: bool
    store: bool
    broker: bool
    clock: bool = Field(description="Whether this machine's clock can be believed.")
    trouble: str
