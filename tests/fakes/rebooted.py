"""A host that starts again and again: `python -m tests.fakes.rebooted FILE MODULE ARGUMENTS` runs a module with the boot id of FILE."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import agent.clock


def main() -> None:
    boot_id = Path(sys.argv[1]).read_text()
    agent.clock.kernel_boot_id = lambda: boot_id
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
