"""Jobs for the worker process: one at a time, decoding first; the worker is started again when it crashes."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.dicom.counters import Counters
from agent.studies import StudyError, StudyFolders

log = logging.getLogger(__name__)

JOB_S = 120.0
TRIES = 2
"""A worker that crashes twice over an item will not do better the third time."""
FULL_WAIT_S = 5.0
REMEMBERED = 1000
ORDER = {"decode": 0, "build": 1}


class Workshop:
    """What cannot be decoded goes to failed/ with its reason, what cannot be answered to dead/."""

    def __init__(self, folders: StudyFolders, state_dir: Path, key_file: Path | None, counters: Counters) -> None:
        self._folders = folders
        self._command = [sys.executable, "-m", "agent.dicom.worker", str(state_dir), *([str(key_file)] if key_file else [])]
        self._counters = counters
        self._jobs: queue.PriorityQueue[tuple[int, int, str, str]] = queue.PriorityQueue()
        self._number = 0
        self._asked: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._crashes: Counter[str] = Counter()
        self.pixels: dict[str, str] = {}
        """Fingerprints of the last that were decoded, for their receipts."""
        self._worker: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workshop")

    def start(self) -> None:
        """Begin, with what a former process left undecoded."""
        for item in self._folders.inbox.items():
            self.decode(item)
        self._thread.start()

    def stop(self) -> None:
        """End after the job in hand, or kill it after a few seconds."""
        self._stopping.set()
        self._jobs.put((-1, 0, "", ""))
        self._thread.join(4.0)
        self._end_worker()
        self._thread.join()

    def decode(self, item: str) -> None:
        """Ask for a picture."""
        self._ask("decode", item)

    def build(self, item: str) -> None:
        """Ask for an answer."""
        self._ask("build", item)

    @property
    def waiting(self) -> int:
        """Jobs that are not done."""
        return len(self._asked)

    def _ask(self, job: str, item: str) -> None:
        with self._lock:
            if (job, item) in self._asked:
                return
            self._asked.add((job, item))
            self._number += 1
            self._jobs.put((ORDER[job], self._number, job, item))

    def _run(self) -> None:
        with suppress(OSError):  # the first job tries again, and says it
            self._running()
        while True:
            _, _, job, item = self._jobs.get()
            if self._stopping.is_set():
                return
            with self._lock:
                self._asked.discard((job, item))
            try:
                self._do(job, item)
            except Exception:  # the supervisor of the jobs
                log.exception("%s: %s could not be done; it is tried again at the next start", item, job)

    def _do(self, job: str, item: str) -> None:
        folders = self._folders
        if not folders.inbox.holds(item):
            return
        if job == "decode":
            if folders.pictures.holds(item) or folders.shown.holds(item):
                return
            self.pixels.pop(item, None)  # of an instance that failed, and comes again with others
        with self._counters.times.stage(job):
            outcome = self._outcome(job, item)
        if outcome is None:
            self._crashed(job, item)
        elif "retry" in outcome:
            self._again(job, item, outcome["retry"])
        elif "reason" in outcome:
            self._give_up(job, item, outcome["reason"], outcome["detail"])
        elif "gone" not in outcome:
            self._counters.count("decoded" if job == "decode" else "built")
            if job == "decode":
                self.pixels[item] = outcome["pixels"]
                if len(self.pixels) > REMEMBERED:
                    del self.pixels[next(iter(self.pixels))]

    def _again(self, job: str, item: str, why: str) -> None:
        log.error("%s; tried again in %g s", why, FULL_WAIT_S)
        self._stopping.wait(FULL_WAIT_S)
        self._ask(job, item)

    def _crashed(self, job: str, item: str) -> None:
        self._end_worker()
        if self._stopping.is_set():
            return
        self._crashes[item] += 1
        log.error("%s: the worker crashed or hung at %s (%d of %d)", item, job, self._crashes[item], TRIES)
        if self._crashes[item] < TRIES:
            self._ask(job, item)
        else:
            del self._crashes[item]
            self._give_up(job, item, "crash", f"the decoder crashed or hung {TRIES} times over it")

    def _give_up(self, job: str, item: str, reason: str, detail: str) -> None:
        try:
            if job == "decode":
                self._folders.fail(item, reason, detail)
            else:
                self._folders.bury(item, reason, detail)
        except StudyError as error:
            self._again(job, item, str(error))
            return
        self._counters.failed(reason)
        log.error("%s: %s: %s", item, "cannot be used" if job == "decode" else "cannot be answered", f"{reason}: {detail}")

    def _outcome(self, job: str, item: str) -> dict[str, Any] | None:
        """What the worker says; None if it crashed or hung."""
        worker = self._running()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(f"{job} {item}\n".encode())
            line = _line(worker.stdout.fileno(), time.monotonic() + JOB_S)
        except OSError:
            return None
        return json.loads(line) if line else None

    def _running(self) -> subprocess.Popen[bytes]:
        """The worker, started if it does not run: that takes seconds, which the first radiograph need not wait for."""
        if self._worker is None or self._worker.poll() is not None:
            self._end_worker()
            self._worker = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return self._worker

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            if stream:
                stream.close()


def _line(descriptor: int, deadline: float) -> bytes:
    """One whole line, or b"" where the stream ends or the deadline passes."""
    found = b""
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0.0))
        part = os.read(descriptor, 65536) if ready else b""
        if not part:
            return b""
        found += part
    return found
