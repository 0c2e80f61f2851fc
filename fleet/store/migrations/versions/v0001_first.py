"""The first tables, as they were then: `fleet.store.tables` has gone on since."""

from __future__ import annotations

from alembic import op
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

revision = "0001"
down_revision = None

metadata = MetaData(naming_convention={"ix": "%(table_name)s_%(column_0_N_name)s", "uq": "%(table_name)s_%(column_0_N_name)s"})

Number = BigInteger().with_variant(Integer, "sqlite")
Time: Double[float] = Double()
Name = String(64)


def _word(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


Table(
    "devices",
    metadata,
    Column("device", Name, primary_key=True),
    _word("state"),
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
    Column("desired", LargeBinary),
    Column("desired_revision", BigInteger),
    Column("desired_sent", BigInteger),
    _word("desired_by"),
    Column("desired_at", Time),
    _word("site"),
    _word("group"),
    _word("note"),
    Column("telemetry", JSON),
    Column("telemetry_at", Time),
    Column("figures", JSON),
    _count("losses"),
    Column("health", JSON),
)

Table(
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
    Column("at", Time, nullable=False),
    Column("captured_at", Time, nullable=False),
    Column("mono_ns", BigInteger, nullable=False),
    _word("boot_id"),
    Column("clock", Name, nullable=False),
    _word("model"),
    Column("received_at", Time, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    UniqueConstraint("device", "spool", "seq"),
    Index("events_at", "at", "id"),
    Index("events_device", "device", "at"),
    Index("events_kind", "kind", "at"),
    Index("events_subject", "subject", "at"),
    Index("events_stream", "stream", "at"),
    Index(
        "events_unsynced",
        "device",
        "boot_id",
        sqlite_where=text("clock = 'unsynced'"),
        postgresql_where=text("clock = 'unsynced'"),
    ),
)

Table(
    "records",
    metadata,
    Column("device", Name, primary_key=True),
    Column("spool", Name, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("lane", Name, nullable=False),
    Column("at", Time, nullable=False),
    Column("captured_at", Time, nullable=False),
    Column("mono_ns", BigInteger, nullable=False),
    _word("boot_id"),
    Column("received_at", Time, nullable=False, index=True),
    Column("payload", LargeBinary, nullable=False),
    Index("records_lane", "device", "lane", "at"),
    Index("records_recent", "lane", "received_at"),
)

Table(
    "spools",
    metadata,
    Column("device", Name, primary_key=True),
    Column("spool", Name, primary_key=True),
    Column("ranges", Text, nullable=False),
    Column("lost", Text, nullable=False, server_default="[]"),
)

Table(
    "clocks",
    metadata,
    Column("device", Name, primary_key=True),
    Column("boot_id", Text, primary_key=True),
    Column("mono_ns", BigInteger, nullable=False),
    Column("wall", Time, nullable=False),
)

Table(
    "dead_letters",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("device", Name, nullable=False, index=True),
    Column("topic", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("first_at", Time, nullable=False),
    Column("last_at", Time, nullable=False, index=True),
    Column("times", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

Table(
    "replies",
    metadata,
    Column("device", Name, primary_key=True),
    Column("id", Name, primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    Column("received_at", Time, nullable=False, index=True),
)

Table(
    "erased",
    metadata,
    Column("device", Name, primary_key=True),
    Column("identity", Text, primary_key=True),
)

Table(
    "samples",
    metadata,
    Column("device", Name, primary_key=True),
    Column("at", Time, primary_key=True),
    Column("figures", JSON, nullable=False),
    Column("rolled", Boolean, nullable=False, server_default=text("false")),
    Index("samples_at", "at"),
    Index("samples_rolled", "at", sqlite_where=text("rolled = false"), postgresql_where=text("rolled = false")),
)

Table(
    "rollups",
    metadata,
    Column("device", Name, primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    Column("low", Time, nullable=False),
    Column("high", Time, nullable=False),
    Column("sum", Time, nullable=False),
    Index("rollups_age", "step", "bucket"),
)

Table(
    "users",
    metadata,
    Column("name", Name, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("role", Name, nullable=False),
    Column("created_at", Time, nullable=False),
)

Table(
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

Table(
    "sessions",
    metadata,
    Column("digest", Name, primary_key=True),
    Column("user", Name, nullable=False),
    Column("expires_at", Time, nullable=False),
)

Table(
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

Table(
    "commands",
    metadata,
    Column("id", Name, primary_key=True),
    Column("device", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("args", JSON),
    Column("by", Text, nullable=False),
    Column("at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("state", Name, nullable=False),
    Column("reply", JSON),
    Column("reply_at", Time),
    Index("commands_device", "device", "at"),
    Index("commands_state", "state", "expires_at"),
)

Table(
    "alerts",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("device", Name, nullable=False),
    Column("rule", Name, nullable=False),
    _word("stream"),
    Column("state", Name, nullable=False),
    Column("since", Time, nullable=False),
    Column("until", Time),
    _word("detail"),
    _word("acknowledged_by"),
    Column("notified", JSON),
    Column("due", Time),
    Index("alerts_due", "due"),
    Index("alerts_state", "state", "since"),
    Index("alerts_device", "device", "since"),
)

Table(
    "rules",
    metadata,
    Column("name", Name, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("threshold", JSON),
    Column("for_s", Time, nullable=False, server_default="0"),
    Column("notify", JSON),
)

Table(
    "duties",
    metadata,
    Column("name", Name, primary_key=True),
    Column("holder", Name, nullable=False),
    Column("until", Time, nullable=False),
)


def upgrade() -> None:
    """Make them all."""
    metadata.create_all(op.get_bind())
