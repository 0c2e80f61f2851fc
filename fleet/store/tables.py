"""The tables of the hub, on SQLite and PostgreSQL. Times are Unix seconds."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(naming_convention={"ix": "%(table_name)s_%(column_0_N_name)s", "uq": "%(table_name)s_%(column_0_N_name)s"})

Number = BigInteger().with_variant(Integer, "sqlite")
"""A key that counts up by itself: on SQLite only a plain INTEGER does."""
Time: Double[float] = Double()
Name = String(64)


def _word(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


devices = Table(
    "devices",
    metadata,
    Column("device", Name, primary_key=True),
    _word("state"),  # what was said last: online, stopped, offline, or nothing; `queries.presence` makes of it what is so now
    _word("session"),
    Column("status", LargeBinary),
    Column("status_at", Time),
    Column("seen_at", Time),
    Column("lease_s", Time),
    _word("boot_id"),
    _word("agent"),
    Column("models", JSON),
    Column("reported", LargeBinary),
    Column("reported_revision", BigInteger),
    Column("reported_at", Time),
    Column("engines", JSON),  # of what it reported, a line each: model, backend, precision
    Column("desired", LargeBinary),
    Column("desired_revision", BigInteger),
    Column("desired_sent", BigInteger),  # the revision that the broker has
    _word("desired_by"),
    Column("desired_at", Time),
    _word("site"),
    _word("group"),
    _word("note"),
    Column("telemetry", JSON),  # the newest sample as it came
    Column("telemetry_at", Time),
    Column("figures", JSON),  # its metrics, flat: see `fleet.store.figures`
    _count("losses"),
    Column("health", JSON),
)

events = Table(
    "events",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("device", Name, nullable=False),
    Column("spool", Name, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("stream", Name, nullable=False),
    Column("kind", Name, nullable=False),
    _word("type"),
    _word("subject"),
    Column("identity", Text, server_default="*"),  # whom it names; `*`: several, or not known; none where it names nobody
    Column("at", Time, nullable=False),  # effective: by clock records where the device's clock was not synchronised
    Column("captured_at", Time, nullable=False),
    Column("mono_ns", BigInteger, nullable=False),
    _word("boot_id"),
    Column("clock", Name, nullable=False),
    _word("model"),
    Column("received_at", Time, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    UniqueConstraint("device", "spool", "seq"),
    Index("events_at", "at", "id"),
    Index("events_received", "received_at"),
    Index("events_device", "device", "at", "id", "stream", "subject"),  # after the time and number of the row, what else may be asked for
    Index("events_kind", "kind", "at", "id"),
    Index("events_subject", "subject", "at", "id", "device", "stream", "kind"),
    Index("events_stream", "stream", "at", "id", "device"),
    Index("events_device_kind", "device", "kind", "at", "id", "stream", "subject"),
    Index("events_stream_kind", "stream", "kind", "at", "id", "device"),
    Index(
        "events_identity",
        "device",
        "identity",
        sqlite_where=text("identity IS NOT NULL"),
        postgresql_where=text("identity IS NOT NULL"),
    ),
    Index(
        "events_unsynced",
        "device",
        "boot_id",
        sqlite_where=text("clock = 'unsynced'"),
        postgresql_where=text("clock = 'unsynced'"),
    ),
)

records = Table(
    "records",
    metadata,
    Column("device", Name, primary_key=True),
    Column("spool", Name, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("lane", Name, nullable=False),  # audit, loss, clock
    Column("at", Time, nullable=False),
    Column("captured_at", Time, nullable=False),
    Column("mono_ns", BigInteger, nullable=False),
    _word("boot_id"),
    Column("received_at", Time, nullable=False, index=True),
    Column("payload", LargeBinary, nullable=False),
    Index("records_lane", "device", "lane", "at"),
    Index("records_recent", "lane", "received_at"),
)

spools = Table(
    "spools",
    metadata,
    Column("device", Name, primary_key=True),
    Column("spool", Name, primary_key=True),
    Column("ranges", Text, nullable=False),  # numbers that are stored or declared as lost: [[low, high], …]
    Column("lost", Text, nullable=False, server_default="[]"),  # those of them that are declared as lost and have not come all the same
    Column("given_up", Text, nullable=False, server_default="[]"),  # those of them that somebody counts as lost
    _word("lane"),
    _word("outbox"),  # in which the numbers run on from one spool of the lane to the next
    *(Column(name, BigInteger) for name in ("low", "high")),  # its lowest number; the highest that was not only given up
    Column("ends", BigInteger),  # the number before the lowest of the next spool
    _count("missing"),  # numbers from the lowest to the highest, or to where it ends, that are neither
    Column("missing_since", Time),
    Column("touched_at", Time),
    Index("spools_missing", "device", sqlite_where=text("missing > 0"), postgresql_where=text("missing > 0")),
    Index("spools_touched", "touched_at"),
    Index("spools_line", "device", "lane", "outbox"),
)

clocks = Table(
    "clocks",
    metadata,
    Column("device", Name, primary_key=True),
    Column("boot_id", Text, primary_key=True),
    Column("mono_ns", BigInteger, nullable=False),
    Column("wall", Time, nullable=False),
    Column("received_at", Time, index=True),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("device", Name, nullable=False, index=True),  # by the topic; empty where that is none of the protocol's
    Column("topic", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("first_at", Time, nullable=False),
    Column("last_at", Time, nullable=False, index=True),
    Column("times", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

replies = Table(
    "replies",
    metadata,
    Column("device", Name, primary_key=True),
    Column("id", Name, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    Column("received_at", Time, nullable=False, index=True),
)

erased = Table(
    "erased",
    metadata,
    Column("device", Name, primary_key=True),
    Column("identity", Text, primary_key=True),
)

erased_visits = Table(
    "erased_visits",
    metadata,
    Column("device", Name, primary_key=True),
    Column("track", Text, primary_key=True),
    Column("at", Time, nullable=False, index=True),  # of the erasure
)

samples = Table(
    "samples",
    metadata,
    Column("device", Name, primary_key=True),
    Column("at", Time, primary_key=True),
    Column("figures", JSON, nullable=False),  # metric to number
    Column("rolled", Boolean, nullable=False, server_default=text("false")),  # whether it is in the roll-ups
    Index("samples_at", "at"),
    Index("samples_rolled", "at", sqlite_where=text("rolled = false"), postgresql_where=text("rolled = false")),
)

rollups = Table(
    "rollups",
    metadata,
    Column("device", Name, primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),  # seconds: 60 or 3600
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),  # its start
    Column("n", BigInteger, nullable=False),
    Column("low", Time, nullable=False),
    Column("high", Time, nullable=False),
    Column("sum", Time, nullable=False),
    Index("rollups_age", "step", "bucket"),
)

users = Table(
    "users",
    metadata,
    Column("name", Name, primary_key=True),
    Column("hash", Text, nullable=False),  # argon2id
    Column("role", Name, nullable=False),
    Column("created_at", Time, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Name, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", Name, nullable=False, unique=True),
    Column("role", Name, nullable=False),
    _word("created_by"),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time),
    Column("last_used_at", Time),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", Name, primary_key=True),
    Column("user", Name, nullable=False),
    Column("expires_at", Time, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("at", Time, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    _word("target"),
    _word("outcome"),
    Column("detail", JSON),
)

commands = Table(
    "commands",
    metadata,
    Column("id", Name, primary_key=True),
    Column("device", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("args", JSON),
    Column("by", Text, nullable=False),
    Column("at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("state", Name, nullable=False),  # queued, sent, done, failed, expired
    Column("reply", JSON),
    Column("reply_at", Time),
    Index("commands_device", "device", "at"),
    Index("commands_state", "state", "expires_at"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("device", Name, nullable=False),
    Column("rule", Name, nullable=False),
    _word("stream"),
    Column("state", Name, nullable=False),  # firing, resolved
    Column("since", Time, nullable=False),
    Column("until", Time),
    _word("detail"),
    _word("acknowledged_by"),
    Column("notified", JSON),  # what was told to whom, and what is still to be told
    Column("due", Time),  # when somebody is to be told
    Index("alerts_due", "due"),
    Index("alerts_state", "state", "since"),
    Index("alerts_device", "device", "since"),
    Index("alerts_firing", "device", sqlite_where=text("state = 'firing'"), postgresql_where=text("state = 'firing'")),
)

rules = Table(
    "rules",
    metadata,
    Column("name", Name, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("threshold", JSON),
    Column("for_s", Time, nullable=False, server_default="0"),
    Column("notify", JSON),
)

maintenance = Table(
    "maintenance",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("kind", Name, nullable=False),  # device, site, group
    Column("name", Text, nullable=False),
    Column("begins", Time, nullable=False),
    Column("ends", Time, nullable=False, index=True),
    _word("reason"),
    Column("by", Text, nullable=False),
)

removed = Table(
    "removed",
    metadata,
    Column("device", Name, primary_key=True),  # what the broker has kept of it says nothing any more, until it speaks again
    Column("at", Time, nullable=False),
)

pictures = Table(
    "pictures",
    metadata,
    Column("device", Name, primary_key=True),
    Column("spool", Name, primary_key=True),  # of the event; of a snapshot its name
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # 0 of a snapshot
    Column("stream", Name, nullable=False),
    _word("track"),  # the visit that it shows
    Column("at", Time, nullable=False),
    Column("received_at", Time, nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("jpeg", LargeBinary, nullable=False),
    Index("pictures_track", "device", "track"),
)

duties = Table(
    "duties",
    metadata,
    Column("name", Name, primary_key=True),  # what only one instance of several does
    Column("holder", Name, nullable=False),
    Column("until", Time, nullable=False),
)

sharing_sites = Table(
    "sharing_sites",
    metadata,
    Column("site", Text, primary_key=True),  # whose devices share identities
    Column("by", Text, nullable=False),
    Column("at", Time, nullable=False),
)

sharing_keys = Table(
    "sharing_keys",
    metadata,
    Column("device", Name, primary_key=True),
    Column("key", Text, nullable=False),  # SharingKey, which the device's certificate vouches for
    Column("at", Time, nullable=False),  # when it last asked
)

identities = Table(
    "identities",
    metadata,
    Column("id", Name, primary_key=True),
    Column("origin", Name, nullable=False, index=True),  # the device that enrolled the person
    Column("site", Text, nullable=False, index=True),
    _word("name"),
    _word("consent"),
    Column("expires_at", Time, index=True),
    Column("revision", BigInteger, nullable=False),
    _count("pictures"),
    Column("at", Time, nullable=False),
    Column("erase_at", Time),  # when it was erased: name and consent are empty from then on
    _word("erase_by"),
)

identity_copies = Table(
    "identity_copies",
    metadata,
    Column("device", Name, primary_key=True),
    Column("identity", Name, primary_key=True),
    Column("box", Text),  # sealed for the device
    Column("box_revision", BigInteger),
    Column("box_at", Time),
    Column("revision", BigInteger),  # that the device has
    _word("declined"),  # why it does not take it
    Column("receipt", Text),  # of its erasure there, signed by the device
    Column("receipt_at", Time),
    Index("identity_copies_identity", "identity"),
)
