"""`python -m provisioning.host VERB`: what the Debian package's scripts and almena-trial.service run. Needs Python's own library only."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from agent.errors import AlmenaError
from provisioning.host import install, trial
from provisioning.host.machine import Kit, kit
from provisioning.host.places import Places
from provisioning.host.plan import Plan
from provisioning.host.releases import Recipe


def main(verb: str, *arguments: str) -> int:
    """`configure WHEELS EXTRAS`, `remove` (of the package) or `judge`. Returns the exit code."""
    packaged = Places(packaged=True)
    try:
        if verb == "configure":
            folder, extras = arguments
            (wheel,) = Path(folder).glob("almena-*.whl")
            chosen = tuple(extras.split(","))
            hub = "hub" in chosen
            suited = Kit(chosen) if hub else kit()
            recipe = Recipe(wheel, chosen, suited.system_site, suited.also, Path(folder))
            install.install(replace(packaged, hub=hub), recipe, Plan())
        elif verb == "remove":
            install.uninstall(packaged, Plan())
        elif verb == "judge":
            trial.judge(Places.found(), Plan())
        else:
            print(f"unknown verb {verb!r}: configure, remove or judge", file=sys.stderr)
            return 2
    except AlmenaError as error:
        print(f"almena: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"almena: {error}: is the disk full, or mounted read-only?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
