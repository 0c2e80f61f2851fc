"""Models of every payload. Version 1: fields may be added, so readers ignore those they do not know."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agent.errors import AlmenaError

VERSION: Literal[1] = 1
MAX_PAYLOAD = 256 * 1024
"""Bytes. A larger event is not stored but declared as lost; the hub refuses larger messages."""

NAME = r"[a-z0-9][a-z0-9-]{0,62}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Spool = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Seq = Annotated[int, Field(ge=1, le=2**63 - 1)]
Revision = Annotated[int, Field(ge=1, le=2**63 - 1)]
Nanoseconds = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
UnixTime = Annotated[float, Field(ge=-1e10, le=1e11, description="Unix time in seconds, UTC: of the years 1654 to 5138.")]
Box = Annotated[
    tuple[float, float, float, float], Field(description="x_min, y_min, x_max, y_max in pixels of the frame; the origin is top left.")
]


def _ordered(pair: tuple[int, int]) -> tuple[int, int]:
    if pair[0] > pair[1]:
        raise ValueError("the first number of a range is above its last")
    return pair


Range = Annotated[tuple[Seq, Seq], AfterValidator(_ordered), Field(description="First and last number, both included.")]


class WireError(AlmenaError):
    """A topic or payload that does not follow the protocol. The message names what is wrong."""


class Payload(BaseModel):
    """The base of all payloads."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Versioned(Payload):
    """A payload that stands alone in a message."""

    v: Literal[1] = VERSION


class Birth(Versioned):
    """The device is there, or has stopped on purpose."""

    state: Literal["online", "stopped"]
    session: Annotated[str, Field(description="Random, new for every connection.", min_length=1)]
    boot_id: str
    agent: Annotated[str, Field(description="Version of the agent.")]
    models: dict[str, str] = Field(default={}, description="Task to model.")
    lease_s: Annotated[float, Field(gt=0, le=86400, description="Without a sign of life for this long the device counts as lost.")]
    reason: str = ""


class Will(Versioned):
    """Spoken by the broker when the connection breaks. Counts only if `session` is that of the current birth."""

    state: Literal["offline"] = "offline"
    session: str
    reason: Literal["lost"] = "lost"


class FaceEvent(Payload):
    """A stage in the life of a track: one person in view of one stream."""

    type: Literal["new", "update", "end"]
    track: str
    box: Box
    score: Annotated[float, Field(description="Best detection score of the track.")]
    started_at: UnixTime
    ended_at: UnixTime | None
    identity: str | None
    name: str | None
    decision: Literal["known", "unknown", "undecided"]
    distance: Annotated[float | None, Field(description="To the nearest identity; smaller is more alike.")]
    threshold: float | None
    second_best: Annotated[float | None, Field(description="Distance to the nearest other identity.")]
    cluster: Annotated[str | None, Field(description="Pseudonym of an unknown person, stable across visits.")]
    frames: Annotated[int, Field(ge=0)]
    reason: Literal["left", "stream lost", "stopped", "interrupted"] | None


class ClassificationEvent(Payload):
    """A stage in the life of an answer: for as long as a classifier says the same of a stream. Of a photograph there is one `end`."""

    type: Literal["new", "update", "end"]
    track: Annotated[str, Field(description="The same from `new` to `end`; of a photograph the start of its file's SHA-256.")]
    label: str
    positive: Annotated[bool | None, Field(description="Whether it is the card's positive class; null where the card names none.")]
    probabilities: Annotated[dict[str, float], Field(description="By label, the mean over the frames of this answer.")]
    threshold: Annotated[float | None, Field(description="The positive class's score from which it is the answer.")]
    started_at: UnixTime
    ended_at: UnixTime | None
    frames: Annotated[int, Field(ge=1)]
    reason: Literal["changed", "left", "stream lost", "stopped", "interrupted"] | None


class StudyEvent(Payload):
    """What a model said of one radiograph, or why it said nothing. Nothing in it leads to the patient."""

    item: Annotated[str, Field(description="HMAC-SHA256 of the SOP Instance UID with a key of the device.", pattern="^[0-9a-f]{32}$")]
    modality: Annotated[str, Field(description="By the tags: CR, DX …; empty where they do not say.")]
    view: Annotated[str, Field(description="By the tags: PA, AP …; empty where they do not say.")]
    decision: Annotated[str | None, Field(description="The label that the model answers; null where it abstained.")]
    positive: Annotated[str, Field(description="The positive class.")]
    threshold: Annotated[float, Field(description="Its score from which it is the answer.")]
    scores: Annotated[dict[str, float], Field(description="By label, 0 to 1; empty where the model was not asked.")]
    abstained: Annotated[
        Literal["unusable", "tags", "pixels", "unfamiliar", "margin"] | None,
        Field(
            description="It came to nothing (`failure`); no frontal chest radiograph by its tags, or by its pixels; unlike what the model"
            " has learned from; or its scores are too close to another answer."
        ),
    ]
    failure: Annotated[str | None, Field(description="Why it came to nothing: `truncated`, `no-pixels`, `multi-frame` …")] = None
    reason: Annotated[str | None, Field(description="Why it abstained, in a sentence.")]
    heat_map: Annotated[bool, Field(description="Whether there is one.")]
    explained: Annotated[Literal["class activation", "occlusion"] | None, Field(description="What it was made by.")] = None
    timings: Annotated[
        dict[str, float],
        Field(description="Seconds: queue, decode (codec: the part of it in codecs), preprocess, infer, explain, publish (its result)."),
    ]


class StreamEvent(Payload):
    """A stream's state has changed."""

    state: str
    code: str = ""
    detail: str = ""


IDENTITY_ERASE = "identity erase"
"""The action of an audit record by which, with outcome `done`, the hub erases the identity `detail.id` too."""


class Audit(Payload):
    """Who did what."""

    action: str
    actor: str
    outcome: str = "done"
    detail: dict[str, Any] = {}


class Loss(Payload):
    """Events that will not arrive, and why.

    `ranges` are the numbers they had in `spool` (pairs, both ends included); events that never got a number are counted alone.
    A number counts once however often it is declared, and as stored if the hub has stored it all the same.
    """

    lane: str
    spool: str
    reason: str
    count: Annotated[int, Field(ge=1, le=2**63 - 1)]
    ranges: tuple[Range, ...] = ()
    since: UnixTime
    until: UnixTime


class ClockReading(Payload):
    """Wall and monotonic time at one moment, read when the clock became synchronised."""

    mono_ns: Nanoseconds
    wall: UnixTime


class DicomFolder(Payload):
    """What one folder of studies holds."""

    count: int
    bytes: int
    oldest_age_s: float | None


class DicomDestination(Payload):
    """The PACS to which answers go."""

    state: Annotated[Literal["none", "up", "down"], Field(description="none: none is set; down: answers wait.")]
    since: Annotated[float | None, Field(description="Down since, Unix time.")]
    detail: str


class DicomFigures(Payload):
    """The DICOM process; counts are since its start. Without a sign of life there are only state and reason."""

    model_config = ConfigDict(extra="allow")

    state: Literal["up", "down"]
    reason: str = ""
    accepted: int = 0
    duplicates: Annotated[int, Field(description="Acknowledged, and here before.")] = 0
    refused: Annotated[dict[str, int], Field(description="By reason: instances and callers that were not taken.")] = {}
    failed: Annotated[dict[str, int], Field(description="By reason: accepted instances that came to nothing.")] = {}
    decoded: int = 0
    built: Annotated[int, Field(description="Answers made.")] = 0
    answered: Annotated[int, Field(description="Answers that the destination has.")] = 0
    rejected: Annotated[int, Field(description="Tries after which the destination did not want an answer.")] = 0
    unreachable: Annotated[int, Field(description="Tries that found no destination.")] = 0
    dead: Annotated[int, Field(description="Answers that were given up.")] = 0
    seconds: Annotated[dict[str, float], Field(description="Percentiles of store, decode, build, send: decode_p50_seconds …")] = {}
    folders: Annotated[
        dict[str, DicomFolder], Field(description="inbox: not answered yet; pictures, answers: parts of it; failed, dead.")
    ] = {}
    destination: DicomDestination | None = None
    folder: Annotated[str, Field(description="What is wrong with the watched folder.")] = ""
    free_bytes: Annotated[int | None, Field(description="On the disk where instances are stored.")] = None


class TelemetrySample(Payload):
    """Measurements of one moment; sections that are not described here may be added."""

    model_config = ConfigDict(extra="allow")

    at: UnixTime
    dicom: Annotated[DicomFigures | None, Field(description="Where radiographs are received.")] = None


class Telemetry(Payload):
    """Measurements since the last batch."""

    model_config = ConfigDict(extra="allow")

    samples: tuple[TelemetrySample, ...]


D = TypeVar("D")


class Envelope(Versioned, Generic[D]):
    """What the outbox stores and the hub keeps under the unique key `id`."""

    id: Annotated[str, Field(description="<device>/<spool>/<seq>", pattern=f"^{NAME}/[0-9a-f]{{16}}/[1-9][0-9]{{0,17}}$")]
    outbox: Annotated[
        str,
        Field(
            pattern="^([0-9a-f]{16})?$",
            description="Random; stays as long as the numbers of the device's lanes run on from one spool to the next.",
        ),
    ] = ""
    stream: Annotated[str, Field(pattern=f"^({NAME})?$")]
    kind: Name
    captured_at: UnixTime
    mono_ns: Nanoseconds
    boot_id: str
    clock: Literal["synced", "unsynced"]
    model: str
    host: str
    data: D

    @property
    def device(self) -> str:
        """The first part of the id."""
        return self.id.split("/")[0]

    @property
    def spool(self) -> str:
        """The second part of the id."""
        return self.id.split("/")[1]

    @property
    def seq(self) -> int:
        """The last part of the id: the order within the spool."""
        return int(self.id.split("/")[2])


class LiveDetection(Payload):
    """One box of a live picture."""

    box: Box
    label: str
    score: float
    known: bool = False
    track: str = ""


class Live(Versioned):
    """What is in view now; may be lost on the way."""

    stream: Name
    captured_at: UnixTime
    width: int
    height: int
    detections: tuple[LiveDetection, ...]


class Reported(Versioned):
    """The state that the device is in, answering `Desired`."""

    revision: Annotated[
        int | None, Field(ge=-(2**63), le=2**63 - 1, description="Of the desired state that is in force; None: none yet.")
    ] = None
    trying: Annotated[Revision | None, Field(description="Of the desired state that is being tried now.")] = None
    refused: Annotated[Revision | None, Field(description="Of the desired state that is refused; `errors` say why.")] = None
    state: dict[str, Any]
    errors: tuple[str, ...] = ()


class Desired(Versioned):
    """The state that the hub wants."""

    revision: Revision
    state: dict[str, Any]


class Command(Versioned):
    """Something to do once. A command whose id is known is answered with the stored reply."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    args: dict[str, Any] = {}
    reply_to: Annotated[str, Field(description="Topic for the reply.")]
    expires_at: UnixTime


class Reply(Versioned):
    """The result of a command."""

    id: str
    ok: bool
    code: Annotated[str, Field(description="Stable word for what happened.")] = ""
    detail: str = ""
    result: Any = None


class Refusal(Payload):
    """A message that the hub will not store."""

    seq: Seq
    reason: str


class Ack(Versioned):
    """The hub has stored these rows of `spool`: every one it was sent up to `upto`, and those in `ranges` (both ends included)."""

    spool: Spool
    upto: Annotated[int, Field(ge=0)] = 0
    ranges: tuple[Range, ...] = ()
    refused: tuple[Refusal, ...] = ()


class HubState(Versioned):
    """Whether a hub listens."""

    state: Literal["online", "offline"]
    session: str
    at: UnixTime


DATA: dict[str, type[Payload]] = {
    "face": FaceEvent,
    "classification": ClassificationEvent,
    "study": StudyEvent,
    "stream": StreamEvent,
    "audit": Audit,
    "loss": Loss,
    "clock": ClockReading,
    "telemetry": Telemetry,
}
"""Kind of an envelope to the model of its data. Kinds that are not listed carry any object."""

PAYLOADS: dict[str, type[Versioned]] = {
    "birth": Birth,
    "will": Will,
    "event": Envelope[dict[str, Any]],
    **{kind: Envelope[data] for kind, data in DATA.items()},  # type: ignore[valid-type]
    "live": Live,
    "reported": Reported,
    "desired": Desired,
    "command": Command,
    "reply": Reply,
    "ack": Ack,
    "hub-state": HubState,
}
"""Name to model of everything that travels alone in a message."""


def schemas() -> dict[str, dict[str, Any]]:
    """Name to JSON Schema (2020-12) of every payload."""
    found = {}
    for name, model in PAYLOADS.items():
        schema = model.model_json_schema(mode="serialization")
        title = f"Almena {name}"
        found[name] = {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return found
