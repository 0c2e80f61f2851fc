"""Who may use the hub: users with passwords and sessions, and API keys. Of passwords, sessions and keys the store has only hashes."""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agent.errors import UnknownError, UsageError
from agent.http.passwords import SESSION_S, RateLimit, digest, hash_password, new_token
from fleet import journal
from fleet.store.database import writing
from fleet.store.tables import api_keys, sessions, users

log = logging.getLogger(__name__)

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""
NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")
MIN_PASSWORD = 10
USED_EVERY_S = 60.0
USED_WAITS_S = 0.1
REFUSED_EVERY_S = 600.0
KEY = "key:"
"""No name of a user has a colon."""


@dataclass(frozen=True)
class Caller:
    """Who asks. `name` is a user's, or `key:` and an id."""

    name: str
    role: Role

    @property
    def is_key(self) -> bool:
        """Whether it is a program."""
        return self.name.startswith(KEY)

    def may(self, role: Role) -> bool:
        """Whether `role` is within the caller's."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Accounts:
    """Safe to call from several threads; one password is checked at a time."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._hasher = PasswordHasher()
        self._one = threading.Lock()
        self._nobody = hash_password(new_token())
        self._refused, self._refused_at = 0, float("-inf")
        self._noted: dict[str, float] = {}
        self.limit = RateLimit()

    def log_in(self, name: str, password: str, address: str) -> str | None:
        """The token of a new session, or None. Takes as long for an unknown user as for a wrong password."""
        with self._one:
            if not self._right(name, password, address):
                return None
        token, now = new_token(), self._clock()
        with writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_at < now))
            connection.execute(insert(sessions).values(digest=digest(token).hex(), user=name, expires_at=now + SESSION_S))
            journal.note(connection, name, "login", at=now)
        return token

    def change_own_password(self, name: str, old: str, new: str, token: str, address: str) -> bool:
        """False where `old` is wrong. The session of `token` goes on, others of this user end. Raises UsageError for a short password."""
        hashed = _hashed(new)
        with self._one:
            if not self._right(name, old, address):
                return False
        with writing(self._engine) as connection:
            connection.execute(update(users).where(users.c.name == name).values(hash=hashed))
            connection.execute(delete(sessions).where(sessions.c.user == name, sessions.c.digest != digest(token).hex()))
            journal.note(connection, name, "user change", name, {"changed": ["password"]}, self._clock())
        return True

    def by_session(self, token: str) -> Caller | None:
        """Whose session it is, while it lasts."""
        wanted = (
            select(users.c.name, users.c.role)
            .join_from(sessions, users, sessions.c.user == users.c.name)
            .where(sessions.c.digest == digest(token).hex(), sessions.c.expires_at > self._clock())
        )
        with self._engine.connect() as connection:
            found = connection.execute(wanted).first()
        return Caller(found.name, found.role) if found else None

    def log_out(self, token: str) -> None:
        """End a session."""
        with writing(self._engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == digest(token).hex()))

    def by_key(self, secret: str) -> Caller | None:
        """Whose key it is, while it holds."""
        now, wanted = self._clock(), api_keys.c.digest == digest(secret).hex()
        with self._engine.connect() as connection:
            found = connection.execute(select(api_keys).where(wanted)).first()
        if found is None or (found.expires_at is not None and found.expires_at <= now):
            return None
        if max(found.last_used_at or 0.0, self._noted.get(found.id, 0.0)) < now - USED_EVERY_S:
            self._noted[found.id] = now
            self._note_use(found.id, now)
        return Caller(f"{KEY}{found.id}", found.role)

    def users(self) -> list[dict[str, Any]]:
        """All users, without their hashes."""
        with self._engine.connect() as connection:
            found = connection.execute(select(users.c.name, users.c.role, users.c.created_at).order_by(users.c.name))
            return [dict(row._mapping) for row in found]

    def add_user(self, by: str, name: str, password: str, role: Role) -> None:
        """Raises UsageError for a name that is taken or cannot be, and for a short password."""
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a user's name: small letters, digits and . _ @ -, at most 63")
        try:
            with writing(self._engine) as connection:
                values = {"name": name, "hash": _hashed(password), "role": role, "created_at": self._clock()}
                connection.execute(insert(users).values(values))
                journal.note(connection, by, "user add", name, {"role": role}, self._clock())
        except IntegrityError as error:
            raise UsageError(f"there is a user {name} already") from error

    def change_user(self, by: str, name: str, *, password: str | None = None, role: Role | None = None) -> None:
        """Another password or role; running sessions of the user end. Raises UnknownError, UsageError."""
        new: dict[str, Any] = {**({"hash": _hashed(password)} if password else {}), **({"role": role} if role else {})}
        if not new:
            raise UsageError("give a password or a role")
        with writing(self._engine) as connection:
            _require_another_admin(connection, name, role)
            connection.execute(update(users).where(users.c.name == name).values(new))
            connection.execute(delete(sessions).where(sessions.c.user == name))
            changed = sorted("password" if key == "hash" else key for key in new)
            journal.note(connection, by, "user change", name, {"changed": changed, **({"role": role} if role else {})}, self._clock())

    def remove_user(self, by: str, name: str) -> None:
        """With the sessions. Raises UnknownError; UsageError for the last admin."""
        with writing(self._engine) as connection:
            _require_another_admin(connection, name, "viewer")
            connection.execute(delete(users).where(users.c.name == name))
            connection.execute(delete(sessions).where(sessions.c.user == name))
            journal.note(connection, by, "user remove", name, at=self._clock())

    def keys(self) -> list[dict[str, Any]]:
        """All API keys, without what they are told by."""
        columns = [column for column in api_keys.c if column.name != "digest"]
        with self._engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(select(*columns).order_by(api_keys.c.created_at))]

    def add_key(self, by: str, name: str, role: Role, expires_at: float | None = None) -> tuple[str, str]:
        """Id and secret of a new API key; the secret cannot be had again."""
        key, secret, now = f"k-{secrets.token_hex(6)}", f"almena_{new_token()}", self._clock()
        with writing(self._engine) as connection:
            values = {"id": key, "name": name, "digest": digest(secret).hex(), "role": role, "created_by": by}
            connection.execute(insert(api_keys).values({**values, "created_at": now, "expires_at": expires_at}))
            journal.note(connection, by, "key add", key, {"name": name, "role": role}, now)
        return key, secret

    def remove_key(self, by: str, key: str) -> None:
        """It holds no longer. Raises UnknownError."""
        with writing(self._engine) as connection:
            if connection.execute(delete(api_keys).where(api_keys.c.id == key)).rowcount == 0:
                raise UnknownError(f"there is no key {key}")
            journal.note(connection, by, "key remove", key, at=self._clock())

    def _right(self, name: str, password: str, address: str) -> bool:
        """Whether it is the user's password; a wrong one counts against the address, where too many let nobody try any more."""
        if self.limit.wait_s(address) > 0:
            return False
        with self._engine.connect() as connection:
            known = connection.execute(select(users.c.hash).where(users.c.name == name)).scalar()
        try:
            right = self._hasher.verify(known or self._nobody, password) and known is not None
        except (VerificationError, InvalidHashError):
            right = False
        if not right:
            self.limit.failed(address)
            self._count_refused()
        return right

    def _note_use(self, key: str, now: float) -> None:
        """For people who look through the keys. Nobody waits for a store that is busy: it is noted a minute later."""
        try:
            with writing(self._engine, USED_WAITS_S) as connection:
                connection.execute(update(api_keys).where(api_keys.c.id == key).values(last_used_at=now))
        except SQLAlchemyError as error:
            log.warning("that the API key %s was used is not noted: %s", key, getattr(error, "orig", None) or error)

    def _count_refused(self) -> None:
        """Wrong passwords go into the journal: the first at once, more of them together every ten minutes."""
        self._refused += 1
        if time.monotonic() - self._refused_at < REFUSED_EVERY_S:
            return
        with writing(self._engine) as connection:
            journal.note(connection, "", "login", detail={"count": self._refused}, at=self._clock(), outcome="refused")
        self._refused, self._refused_at = 0, time.monotonic()


def _hashed(password: str) -> str:
    if len(password) < MIN_PASSWORD:
        raise UsageError(f"a password has at least {MIN_PASSWORD} characters")
    return hash_password(password)


def _require_another_admin(connection: Connection, name: str, becomes: Role | None) -> None:
    """Raises UnknownError for nobody; UsageError where nobody could change accounts any more once this one is less than an admin."""
    was = connection.execute(select(users.c.role).where(users.c.name == name)).scalar()
    if was is None:
        raise UnknownError(f"there is no user {name}")
    others = select(func.count()).select_from(users).where(users.c.role == "admin", users.c.name != name)
    if was == "admin" and becomes not in (None, "admin") and not connection.execute(others).scalar():
        raise UsageError("that is the last admin: make another user one first")
