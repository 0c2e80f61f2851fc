"""What can go wrong with an identity. Each message says what to do."""

from __future__ import annotations

from agent.errors import AlmenaError, UsageError


class IdentityError(AlmenaError):
    """The identity cannot be had, read or used. `waits`: the same request may be answered later, without anybody's doing here."""

    waits = False


class MistakenError(IdentityError, UsageError):
    """An address, a token or a name that cannot be one."""


class NotAnsweredError(IdentityError):
    """The enrolment server cannot be reached, or cannot answer now."""

    waits = True
