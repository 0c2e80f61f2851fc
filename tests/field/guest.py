"""The field test, inside the machine: runs at each boot from /field, carries the stage of /out/stage out, and writes what it saw to
/out/STAGE.json. The stage `upgrade` ends as by a power cut, all others in order.

Python's own library only. /field: wheels, models, a clip, certificates, these files. Each step either says what it saw or raises.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from guest_common import OUT, run, start_broker
from guest_fleet import copied, guessed, hub, hub_confinement, hub_doctor, hub_uninstall, hub_watchdog, join, uninstall
from guest_package import package, package_of_a_hub, package_upgrade
from guest_service import (
    backends,
    bad_upgrade,
    confinement,
    cut_the_power,
    doctor,
    identity,
    install,
    installed,
    mended,
    more_backends,
    planted,
    running_as_meant,
    started_again,
    upgrade_and_back,
    watchdog,
)

STAGES: dict[str, tuple[Callable[[], str], ...]] = {
    "service": (start_broker, install, backends, more_backends, running_as_meant, confinement, planted, watchdog, identity, mended, doctor),
    "upgrade": (start_broker, installed, bad_upgrade, upgrade_and_back),
    "power": (start_broker, started_again),
    "fleet": (start_broker, installed, join, uninstall),
    "hub": (hub, hub_confinement, hub_doctor, copied, guessed, hub_watchdog, hub_uninstall),
    "package": (start_broker, package, package_upgrade, package_of_a_hub),
}


def main() -> None:
    stage = (OUT / "stage").read_text().strip()
    report = []
    for step in STAGES[stage]:
        started = time.monotonic()
        try:
            result = {"step": step.__name__, "ok": True, "saw": step()}
        except Exception as error:  # noqa: BLE001 - a step that failed is reported, and the next one is tried
            result = {"step": step.__name__, "ok": False, "saw": f"{type(error).__name__}: {error}"}
        report.append(result | {"stage": stage, "seconds": round(time.monotonic() - started, 1)})
        print("ok  " if result["ok"] else "FAIL", step.__name__, result["saw"], flush=True)
        (OUT / f"{stage}.json").write_text(json.dumps(report, indent=2))
    (OUT / f"{stage}.journal").write_text(run("journalctl", "--no-pager", "-b", check=False))
    if stage == "upgrade":
        cut_the_power()
    subprocess.run(["systemctl", "poweroff"], check=False)


if __name__ == "__main__":
    main()
