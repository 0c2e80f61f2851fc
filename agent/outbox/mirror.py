"""The books of a store outside its database: they tell when the database was lost, restored or rolled back.

Two slots in one small file, written in turn and synced, each with a checksum. Writing in place needs no free space, so failed appends
are counted here while the disk is full. At the end of the first slot stands whose numbers these are.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.outbox.guard import make_private
from agent.outbox.rows import LaneState

_SLOT = 4096
_HEAD = struct.Struct("<IQ")
_LANE = struct.Struct("<8s8Q")
_NO_SPOOL = bytes(8)
_IDENTITY = struct.Struct("<8sI")


@dataclass(frozen=True, slots=True)
class Mark:
    """One lane as the mirror knows it; see LaneState. `failed` counts every append that ever failed."""

    spool: str
    seq: int = 0
    produced: int = 0
    settled: int = 0
    lost: int = 0
    acknowledged: int = 0
    floor: int = 0
    booked: int = 0
    failed: int = 0

    @classmethod
    def of(cls, state: LaneState) -> Mark:
        """What the database says."""
        books = (state.seq, state.produced, state.settled, state.lost, state.acknowledged, state.floor, state.booked)
        return cls(state.spool, *books, failed=state.booked)

    def advanced(self, other: Mark) -> Mark:
        """`other`, unless this is a later state of the same spool. Failed appends are never forgotten."""
        if self.spool != other.spool:
            return replace(other, failed=max(self.failed, other.failed))
        return Mark(self.spool, *(max(pair) for pair in zip(self._numbers(), other._numbers(), strict=True)))

    def pack(self) -> bytes:
        """Fixed-size binary form."""
        return _LANE.pack(bytes.fromhex(self.spool) if self.spool else _NO_SPOOL, *self._numbers())

    def _numbers(self) -> tuple[int, ...]:
        return (self.seq, self.produced, self.settled, self.lost, self.acknowledged, self.floor, self.booked, self.failed)


class Mirror:
    """The file. Several processes may use it at once."""

    def __init__(self, path: Path, lanes: Sequence[str]) -> None:
        self._lanes = tuple(lanes)
        self._lock = threading.Lock()
        make_private(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        if os.fstat(self._fd).st_size < 2 * _SLOT:
            os.posix_fallocate(self._fd, 0, 2 * _SLOT)
            os.fsync(self._fd)

    def version(self) -> bytes:
        """Changes with every write, whoever does it. Costs two small reads."""
        return os.pread(self._fd, _HEAD.size, 0) + os.pread(self._fd, _HEAD.size, _SLOT)

    def identity(self, *, anew: bool) -> str:
        """What tells this outbox, as long as its numbers run on, from another one that the device had or will have: 64 random bits in hex.

        `anew`: its numbers begin again. Raises OSError.
        """
        with self._exclusive():
            at = _SLOT - _IDENTITY.size
            known, checksum = _IDENTITY.unpack(os.pread(self._fd, _IDENTITY.size, at))
            if anew or checksum != zlib.crc32(known):
                known = secrets.token_bytes(8)
                os.pwrite(self._fd, _IDENTITY.pack(known, zlib.crc32(known)), at)
                os.fsync(self._fd)
            return bytes(known).hex()

    def read(self) -> dict[str, Mark] | None:
        """The newest sound slot; None if there is none."""
        with self._exclusive():
            return self._newest()[1]

    def update(self, states: Mapping[str, LaneState], *, sync: bool) -> dict[str, Mark]:
        """Carry the marks on to `states`; returns what is now in force. `sync`: on the disk before this returns."""
        with self._exclusive():
            generation, marks = self._newest()
            old = marks or {}
            marks = {lane: old.get(lane, Mark("")).advanced(Mark.of(state)) for lane, state in states.items()}
            self._write(generation + 1, marks, sync)
            return marks

    def count_failed(self, failed: Mapping[str, int]) -> dict[str, Mark]:
        """Add failed appends."""
        with self._exclusive():
            generation, marks = self._newest()
            marks = {lane: (marks or {}).get(lane, Mark("")) for lane in self._lanes}
            marks = {lane: replace(mark, failed=mark.failed + failed.get(lane, 0)) for lane, mark in marks.items()}
            self._write(generation + 1, marks, sync=True)
            return marks

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _newest(self) -> tuple[int, dict[str, Mark] | None]:
        sound = [slot for slot in (self._slot(0), self._slot(1)) if slot]
        return max(sound, key=lambda slot: slot[0], default=(0, None))

    def _slot(self, number: int) -> tuple[int, dict[str, Mark]] | None:
        size = _HEAD.size + len(self._lanes) * _LANE.size
        raw = os.pread(self._fd, size, number * _SLOT)
        if len(raw) < size:
            return None
        checksum, generation = _HEAD.unpack_from(raw)
        if checksum != zlib.crc32(raw[4:]) or generation == 0:
            return None
        marks = {}
        for index, lane in enumerate(self._lanes):
            spool, *numbers = _LANE.unpack_from(raw, _HEAD.size + index * _LANE.size)
            marks[lane] = Mark("" if spool == _NO_SPOOL else spool.hex(), *numbers)
        return generation, marks

    def _write(self, generation: int, marks: Mapping[str, Mark], sync: bool) -> None:
        body = struct.pack("<Q", generation) + b"".join(marks[lane].pack() for lane in self._lanes)
        os.pwrite(self._fd, struct.pack("<I", zlib.crc32(body)) + body, generation % 2 * _SLOT)
        if sync:
            os.fdatasync(self._fd)
