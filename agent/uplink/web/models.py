"""Bodies of requests and answers, for checking and for the OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from agent.datatypes import MAX_NAME

PersonName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME)]
Consent = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]


class Request(BaseModel):
    """A body in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class NewIdentity(Request):
    """A person to be recognised. Pictures are added afterwards."""

    name: PersonName
    consent: Consent = Field("", description="How the person agreed: form, date, who keeps it.")
    expires_at: FiniteFloat | None = Field(None, description="Unix time in seconds at which the identity is erased by itself.")


class ChangedIdentity(Request):
    """Other values; what is left out stays."""

    name: PersonName = Field(default_factory=str)
    consent: Consent = Field(default_factory=str)
    expires_at: FiniteFloat | None = Field(None, description="Unix time in seconds at which the identity is erased by itself; null: never.")

    @model_validator(mode="after")
    def _changes_something(self) -> ChangedIdentity:
        if not self.model_fields_set:
            raise ValueError("give name, consent or expires_at")
        return self


class Credentials(Request):
    """A login."""

    username: str = Field(max_length=200)
    password: str = Field(max_length=1000)


class ProblemDocument(BaseModel):
    """An error, RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None


class EventPage(BaseModel):
    """Events, newest first, and the cursor of the next page."""

    events: list[dict[str, Any]]
    next: str | None = Field(description="Give it as `cursor` to get older events; null at the end.")


class Connection(BaseModel):
    """Whether something that the page depends on is there."""

    state: str
    detail: str = ""


class Watched(BaseModel):
    """A live picture that somebody at the hub looks at."""

    stream: str
    since: float


class Health(BaseModel):
    """The device at a glance."""

    device: str
    version: str
    started_at: float
    login: bool = Field(description="Whether the page asks for a login.")
    studies: bool = Field(description="Whether radiographs arrive here.")
    vision: Connection = Field(description="running or down")
    broker: Connection = Field(description="off, connecting, connected, refused or waiting")
    watched: list[Watched] = Field(description="Live pictures that somebody at the hub looks at now.")
    dicom: Connection | None = Field(description="Where radiographs arrive: running, impaired (answers wait or were given up) or down")
