"""`python -m agent.dicom SETTINGS`: the DICOM process."""

from __future__ import annotations

import logging
import resource
import sys

from agent import settings as settings_module
from agent.errors import AlmenaError
from agent.notify import notify
from agent.process import begin, keep_freed_memory, refused, starting


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit code 2: the settings are wrong; 1: it cannot start."""
    config, stopping = begin("dicom", __doc__)
    keep_freed_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with starting():
            from agent.dicom.service import Dicom

            for library in ("pydicom", "pynetdicom"):  # their messages quote the data set; their import sets the level
                logging.getLogger(library).setLevel(logging.CRITICAL + 1)
            dicom = Dicom(settings_module.load(config))
            dicom.start()
    except ModuleNotFoundError as error:
        return refused(AlmenaError(f"the package {error.name} is missing: pip install 'almena[dicom]'"))
    except AlmenaError as error:
        return refused(error)
    notify("READY=1")
    while not stopping.wait(1.0):
        dicom.tell()
        if dicom.alive:
            notify("WATCHDOG=1")
    notify("STOPPING=1")
    dicom.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
