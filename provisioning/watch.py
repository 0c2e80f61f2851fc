"""The session of `almena fleet watch`."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from datetime import timedelta

from agent.wire.topics import TOPICS
from provisioning.broker import WATCH
from provisioning.ca import Authority
from provisioning.client import Endpoint, NotAcceptedError, session
from provisioning.clones import Clones
from provisioning.register import Register
from provisioning.settings import BrokerSettings

log = logging.getLogger(__name__)

AGAIN_S = 5.0
CERTIFICATE = timedelta(days=1)


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
