"""What time it is, and how far that can be trusted."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
_SYNC_CHECK_S = 1.0
_SYNCED_MARK = Path("/run/systemd/timesync/synchronized")
"""Made by systemd-timesyncd when it has set the clock."""


EARLIEST, LATEST = -62_135_424_000.0, 253_402_128_000.0
"""The Unix times that a calendar has a date for, in every time zone: two days less than the years 1 to 9999."""


class _Timex(ctypes.Structure):
    """The head of `struct timex` (adjtimex(2)) up to `status`, and room for the rest."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def kernel_synchronised() -> bool:
    """Whether the kernel says that a time service disciplines the wall clock (adjtimex(2), STA_UNSYNC clear).

    Where asking is denied (in some containers, by systemd's ProtectClock) the mark of systemd-timesyncd decides.
    """
    timex = _Timex()
    state = _libc().adjtimex(ctypes.byref(timex))
    if state < 0:
        _tell_denied(ctypes.get_errno())
        return _SYNCED_MARK.exists()
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC


@lru_cache(maxsize=1)
def _tell_denied(number: int) -> None:
    """Once per reason."""
    logger.warning(
        "the kernel does not tell whether the clock is right (adjtimex: %s); it counts as unsynchronised unless %s exists",
        os.strerror(number),
        _SYNCED_MARK,
    )


@lru_cache(maxsize=1)
def kernel_boot_id() -> str:
    """The kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def date_of(at: float, zone: timezone | None = None) -> datetime:
    """A Unix time as a date, local where no zone is given. One that no calendar has becomes the first or the last that it has."""
    return datetime.fromtimestamp(min(max(at, EARLIEST), LATEST), zone)


class Clock:
    """The machine's clocks. Tests put another one in its place."""

    def __init__(self) -> None:
        self._checked = float("-inf")
        self._synchronised = False

    @property
    def boot_id(self) -> str:
        """The same until the machine starts anew; monotonic times compare only within it."""
        return kernel_boot_id()

    def wall(self) -> float:
        """Unix time in seconds."""
        return time.time()

    def mono_ns(self) -> int:
        """Monotonic nanoseconds since about the boot."""
        return time.monotonic_ns()

    def synchronised(self) -> bool:
        """Whether wall time can be trusted; asked of the kernel at most once a second."""
        now = time.monotonic()
        if now - self._checked >= _SYNC_CHECK_S:
            self._synchronised = kernel_synchronised()
            self._checked = now
        return self._synchronised

    @property
    def state(self) -> str:
        """`synced` or `unsynced`, as envelopes say it."""
        return "synced" if self.synchronised() else "unsynced"
