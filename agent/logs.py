"""Logging of a process: readable lines, or JSON lines for a journal; in both, secrets are masked and control characters escaped."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from datetime import datetime, timezone
from types import TracebackType

_RUN = re.compile(r"[^\s\"'<>]+")
_CREDENTIALS = re.compile(r"://(?:[^/]*|[^/:@]*:(?!\d+/).*)@")
"""User and password of a URL, also where the password holds an `@` or, against the rules, a slash."""

_ASSIGNED = re.compile(
    r"((?<![\w-])(?=[\w-]*?(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|authorization))[\w-]+[\"']?\s*[=:]\s*)"
    r"((?:basic|bearer|digest)\s+\S+|\"[^\"]*\"|'[^']*'|[^\s,;&\"')}\]]+)",
    re.IGNORECASE,
)
"""Words that hold such a keyword, with what follows."""


PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, 0: 7}
"""Levels to those of syslog(3)."""


def mask(text: str) -> str:
    """`text` without credentials: `rtsp://user:pw@cam/1` becomes `rtsp://***@cam/1`, `password=x` becomes `password=***`.

    Its time grows linearly with the length of the text, whatever that holds.
    """
    if "://" in text:
        text = _RUN.sub(_without_credentials, text)
    return _ASSIGNED.sub(r"\1***", text)


def _without_credentials(run: re.Match[str]) -> str:
    """Credentials end with the last `@` of what no blank or quote parts, so nothing is sought beyond it."""
    before, at, rest = run.group().rpartition("@")
    return _CREDENTIALS.sub("://***@", before + at) + rest


def escaped(text: str) -> str:
    """`text` with what does not print (control characters, line breaks, marks that turn the direction) as in a string of JSON."""
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


class LineFormatter(logging.Formatter):
    """`00:22:21 WARNING vision sources.rtsp: …`, in local time."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        return escaped(mask(super().formatMessage(record)).rstrip("\n"))

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the trace of an exception indented below it, so that nothing in it looks like another line of the log."""
        return "\n  ".join(escaped(line) for line in mask(super().format(record)).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, process, logger, message, and exception where there is one.

    With `journal` the level stands before it as in sd-daemon(3), which the journal takes off again and keeps as the line's priority.
    """

    def __init__(self, process: str, *, journal: bool = False) -> None:
        super().__init__()
        self.process = process
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": mask(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = mask(self.formatException(record.exc_info))
        priority = f"<{next(number for least, number in PRIORITIES.items() if record.levelno >= least)}>" if self._journal else ""
        return priority + escaped(json.dumps(line, ensure_ascii=False))


def setup(process: str, level: int = logging.INFO) -> None:
    """Log to standard error from now on; `process` (vision, uplink …) is named in every line. ALMENA_LOG=json gives JSON lines.

    Errors that nobody caught, in any thread, go the same way, so that they are masked too.
    """
    handler = logging.StreamHandler(sys.stderr)
    as_json = os.environ.get("ALMENA_LOG") == "json"
    handler.setFormatter(JsonFormatter(process, journal=_to_the_journal()) if as_json else LineFormatter(process))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpcore", "transitions", "amqtt", "asyncio", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _to_the_journal() -> bool:
    """Whether standard error is the journal's own socket (systemd.exec(5), $JOURNAL_STREAM)."""
    stream = os.environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    here = os.fstat(sys.stderr.fileno())
    return stream == f"{here.st_dev}:{here.st_ino}"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("almena").critical("ended by an error that nobody caught", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None:
        return
    name = args.thread.name if args.thread else "?"
    logging.getLogger("almena").critical(
        "thread %s ended by an error that nobody caught", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )
