"""Tells people of alerts: by e-mail and to webhooks. What cannot be told is tried again for a day, and then said to be so."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import smtplib
import ssl
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any

import httpx
from sqlalchemy import Connection, Engine, select, update

from agent.errors import UnreadableError, UsageError
from agent.handed import secret_in
from fleet import maintenance
from fleet.duty import Duty
from fleet.settings import AlertSettings, EmailSettings, WebhookSettings
from fleet.store.database import writing
from fleet.store.tables import alerts

log = logging.getLogger(__name__)

PERIOD_S = 5.0
AT_ONCE = 200
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 3600.0
GIVEN_UP_AFTER_S = 86400.0
TIMEOUT_S = 15.0

Told = list[dict[str, Any]]


class Herald(Duty):
    """One thread, on one of several hubs. The column `notified` says what is `pending`, `sent` and `given_up`, of each a list."""

    def __init__(self, engine: Engine, settings: AlertSettings) -> None:
        super().__init__(engine, "herald", PERIOD_S, self.tell)
        self._ways = ways(settings)

    def to_tell(self, notify: Mapping[str, Any] | None, now: float) -> dict[str, Any]:
        """The columns of a new alert: whom to tell that it fires."""
        wanted = _wanted(notify)
        pending = [{"way": way, "what": "firing", "since": now, "tries": 0} for way in self._ways if wanted is None or way in wanted]
        return {"notified": {"pending": pending, "sent": [], "given_up": []}, "due": now if pending else None}

    def over(self, connection: Connection, alert: int, now: float) -> None:
        """An alert has ended; who was told of it, or is to be, is told that, too. Of one that came and went in maintenance nobody is."""
        quiet = alerts.c.device.in_(maintenance.closed(now))
        notified, quiet_now = connection.execute(select(alerts.c.notified, quiet).where(alerts.c.id == alert)).one()
        notified = notified or {}
        waiting = [] if quiet_now else notified.get("pending", [])
        told = {one["way"] for one in (*notified.get("sent", []), *waiting)}
        pending = [*waiting, *({"way": way, "what": "resolved", "since": now, "tries": 0} for way in sorted(told))]
        values = {"state": "resolved", "until": now, "notified": {**notified, "pending": pending}, "due": now if pending else None}
        connection.execute(update(alerts).where(alerts.c.id == alert).values(values))

    def tell(self, now: float) -> None:
        """Everything that is due, in one message for each way; of devices in maintenance once that is over."""
        wanted = select(alerts).where(alerts.c.due <= now, alerts.c.device.not_in(maintenance.closed(now)))
        with self._engine.connect() as connection:
            due = connection.execute(wanted.order_by(alerts.c.due).limit(AT_ONCE)).all()
        for way in sorted({one["way"] for row in due for one in row.notified["pending"] if _is_due(one, now)}):
            told = [_message(row, one["what"]) for row in due for one in row.notified["pending"] if one["way"] == way and _is_due(one, now)]
            trouble = self._send(way, told)
            with writing(self._engine) as connection:
                for row in due:
                    _note(connection, row.id, way, trouble, now)

    def _send(self, way: str, told: Told) -> str:
        """Empty, or why it could not be sent."""
        if way not in self._ways:
            return "the settings of this hub do not name it any more"
        try:
            self._ways[way](told)
        except (OSError, smtplib.SMTPException, httpx.HTTPError, httpx.InvalidURL, UnreadableError, ValueError) as error:
            trouble = " ".join(str(error).split())[:200] or type(error).__name__
            log.error("alerts cannot be told by %s: %s; this is tried again", way, trouble)
            return trouble
        return ""


class Email:
    """One e-mail for all that is told at once."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings

    def __call__(self, told: Told) -> None:
        settings = self._settings
        message = EmailMessage()
        message["From"], message["To"] = settings.sender, ", ".join(settings.recipients)
        message["Subject"] = f"[Almena] {told[0]['text']}" if len(told) == 1 else f"[Almena] {len(told)} alerts"
        message.set_content("\n".join(f"{one['text']}" for one in told) + "\n")
        password = secret_in(settings.password_file) if settings.password_file else ""
        context = ssl.create_default_context()
        if settings.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, settings.port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_S)
        with server:
            if settings.security == "starttls":
                server.starttls(context=context)
            if settings.username:
                server.login(settings.username, password)
            server.send_message(message)


class Webhook:
    """One POST for all that is told at once. `X-Almena-Signature: sha256=…` is the HMAC-SHA256 of the body (RFC 2104)."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings

    def __call__(self, told: Told) -> None:
        body = json.dumps({"v": 1, "alerts": told}).encode()
        headers = {"Content-Type": "application/json"}
        if self._settings.secret_file:
            signature = hmac.new(secret_in(self._settings.secret_file).encode(), body, hashlib.sha256).hexdigest()
            headers["X-Almena-Signature"] = f"sha256={signature}"
        httpx.post(self._settings.url, content=body, headers=headers, timeout=TIMEOUT_S).raise_for_status()


def ways(settings: AlertSettings) -> dict[str, Callable[[Told], None]]:
    """How this hub can tell people: `email`, and `webhook:` with a name."""
    email = {"email": Email(settings.email)} if settings.email else {}
    return {**email, **{f"webhook:{hook.name}": Webhook(hook) for hook in settings.webhooks}}


def require_ways(settings: AlertSettings, notify: Mapping[str, Any] | None) -> None:
    """Raises UsageError for ways to tell people that this hub does not have."""
    has = ways(settings)
    if missing := [way for way in _wanted(notify) or () if way not in has]:
        known = ", ".join(has) or "none: see `alerts` in its settings"
        raise UsageError(f"this hub cannot tell by {', '.join(missing)}; it has {known}")


def _wanted(notify: Mapping[str, Any] | None) -> list[str] | None:
    """The ways that a rule names; None: all that there are. Raises UsageError for what is neither."""
    if notify is None:
        return None
    email, hooks = notify.get("email", False), notify.get("webhooks", [])
    if set(notify) - {"email", "webhooks"} or not isinstance(email, bool) or not isinstance(hooks, list):
        raise UsageError('whom a rule tells is {"email": true or false, "webhooks": [names]}, or null for all that there are')
    return [*(["email"] if email else []), *(f"webhook:{name}" for name in hooks)]


def _is_due(one: Mapping[str, Any], now: float) -> bool:
    return bool(one["since"] <= now and one.get("again", now) <= now)


def _message(row: Any, what: str) -> dict[str, Any]:
    place = f"{row.device} ({row.stream})" if row.stream else row.device
    text = f"{place}: {row.rule}: {row.detail}" if what == "firing" else f"{place}: {row.rule} is over"
    found = {name: getattr(row, name) for name in ("id", "device", "stream", "rule", "detail", "since")}
    return {**found, "until": row.until if what == "resolved" else None, "what": what, "text": text}


def _note(connection: Connection, alert: int, way: str, trouble: str, now: float) -> None:
    """Write down what came of telling; anew, because the alert may have ended meanwhile."""
    notified = connection.execute(select(alerts.c.notified).where(alerts.c.id == alert)).scalar() or {}
    pending: Told = []
    sent, given_up = list(notified.get("sent", [])), list(notified.get("given_up", []))
    for one in notified.get("pending", []):
        if one["way"] != way or not _is_due(one, now):
            pending.append(one)
        elif not trouble:
            sent.append({"way": way, "what": one["what"], "at": now})
        elif now - one["since"] > GIVEN_UP_AFTER_S:
            log.error("alert %d is not told by %s: given up after a day: %s", alert, way, trouble)
            given_up.append({"way": way, "what": one["what"], "at": now, "why": trouble})
        else:
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** one["tries"])
            pending.append({**one, "tries": one["tries"] + 1, "again": now + pause, "why": trouble})
    due = min((one.get("again", now) for one in pending), default=None)
    values = {"notified": {"pending": pending, "sent": sent, "given_up": given_up}, "due": due}
    connection.execute(update(alerts).where(alerts.c.id == alert).values(values))
