"""The session of `almena fleet watch`."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from agent.wire.topics import TOPICS
from engines.files import HeldError, locked
from provisioning.broker import WATCH
from provisioning.ca import Authority, give
from provisioning.client import Endpoint, NotAcceptedError, session
from provisioning.clones import Clones
from provisioning.errors import FleetError, writing
from provisioning.register import Register
from provisioning.settings import BrokerSettings

log = logging.getLogger(__name__)

AGAIN_S = 5.0
CERTIFICATE = timedelta(days=1)


class WatchedError(FleetError):
    """Another process watches this fleet."""


@contextmanager
def sole_watch(folder: Path) -> Iterator[None]:
    """While this lasts nobody else watches the fleet of this folder: the broker has one session for this name, and a second watcher would
    end that of the first, again and again. Raises WatchedError, FleetError."""
    path = folder / "watch.lock"
    try:
        with writing(path):
            lock = locked(path)
    except HeldError as holder:
        raise WatchedError(
            f"process {holder} watches this fleet already (`enrol-server --watch`, or another `almena fleet watch`):"
            " `almena fleet decisions` lists what it has found"
        ) from None
    with lock:
        with writing(path):
            give(lock.fileno(), folder)
        yield


def watch_in_turn(folder: Path, watching: Callable[[], None], stopping: threading.Event) -> None:
    """`watching` as soon as nobody else does, until `stopping` is set."""
    said = ""
    while not stopping.is_set():
        try:
            with sole_watch(folder):
                watching()
        except FleetError as error:
            if str(error) != said:
                log.warning("not watching for two devices with one identity: %s; trying again", error)
            said = str(error)
            stopping.wait(AGAIN_S)


def watch(broker: BrokerSettings, authority: Authority, register: Register, stopping: threading.Event) -> None:
    """Until `stopping` is set; a connection that is lost is made again. What is found is logged, and kept as a decision."""
    endpoint = Endpoint(broker.host, broker.port, authority.pem)
    clones, said = Clones(), ""
    while not stopping.is_set():
        try:
            with session(endpoint, authority.client(WATCH, CERTIFICATE)) as one:
                one.subscribe([TOPICS["status"].filter()])
                log.info("watching %s:%d", broker.host, broker.port)
                said = ""
                while not stopping.is_set() and not one.ended.is_set():
                    try:
                        heard = one.heard.get(timeout=0.5)
                    except queue.Empty:
                        continue
                    if suspicion := clones.status(heard.topic, heard.payload):
                        name = heard.topic.split("/")[2]
                        log.warning("%s: %s; `almena fleet revoke %s` ends both, and a new invitation admits one", name, suspicion, name)
                        register.note("watch", name, "suspected", suspicion)
        except (NotAcceptedError, OSError, queue.Empty, sqlite3.Error) as error:
            text = f"{broker.host}:{broker.port} cannot be watched ({error or 'no answer'}); trying again"
            if text != said:
                log.warning("%s", text)
            said = text
            stopping.wait(AGAIN_S)
