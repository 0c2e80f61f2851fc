"""Appends numbered events until it is killed, and prints what append has returned for: `outbox_writer FOLDER SEED`."""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

from agent.datatypes import Event
from agent.outbox import Outbox
from agent.settings import OutboxSettings


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    outbox = Outbox.open(folder, "dev", OutboxSettings())
    printing = threading.Lock()

    def work(name: str) -> None:
        chance = random.Random(f"{seed} {name}")
        number = 0
        while True:
            lane = chance.choice(["event", "event", "event", "audit", "telemetry"])
            events = [
                Event("cam", "count", {"label": f"{seed}-{name}-{number + step}", "pad": "x" * chance.randrange(2000)}, time.time(), 1)
                for step in range(chance.randrange(1, 20))
            ]
            outbox.append(lane, events)
            number += len(events)
            with printing:
                print(lane, *(event.data["label"] for event in events), flush=True)

    for name in ("a", "b"):
        threading.Thread(target=work, args=(name,), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
