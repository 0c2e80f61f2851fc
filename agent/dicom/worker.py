"""`python -m agent.dicom.worker STATE_DIR [KEY_FILE]`: decodes pictures and builds answers, apart from the process that receives.

A job is a line `decode <item>` or `build <item>` on standard input; its outcome is a line of JSON on standard output, with `reason` and
`detail` where the item cannot be used, `retry` where the disk is full, or the fingerprint of what was decoded as `pixels`. The codecs are C
code that meets foreign bytes: if one crashes, only this process ends. It ends with its standard input.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from agent import logs
from agent.dicom.reading import UnusableError
from agent.process import keep_freed_memory, starting
from agent.studies import StudyError, StudyFolders, StudySpaceError, UnknownStudyError

MEMORY = 3 * 1024**3
"""Bytes of address space."""


def decode(folders: StudyFolders, item: str) -> dict[str, Any]:
    """inbox/ to pictures/. Raises UnusableError, StudyError."""
    from agent.dicom.decode import picture_of

    picture, pixels = picture_of(folders.instance(item))
    folders.write_picture(picture)
    return {"pixels": folders.fingerprint(pixels)}


def build(folders: StudyFolders, item: str) -> dict[str, Any]:
    """inbox/, pictures/ and results/ to answers/. Raises UnusableError, StudyError."""
    from agent.dicom.answer import answer_files

    files = answer_files(folders, item)
    sizes = [len(data) for data in files]
    folders.answers.write(item, {"sizes": sizes}, b"".join(files), at=folders.inbox.written_at(item), durable=True)
    return {}


JOBS: dict[str, Callable[[StudyFolders, str], dict[str, Any]]] = {"decode": decode, "build": build}


def outcome(folders: StudyFolders, job: str, item: str) -> dict[str, Any]:
    """Do one job."""
    try:
        return JOBS[job](folders, item)
    except UnusableError as error:
        return {"reason": error.reason, "detail": str(error)}
    except MemoryError:
        return {"reason": "memory", "detail": "it takes more memory than a worker may have"}
    except UnknownStudyError:
        return {"gone": True}
    except StudyError as error:
        return {"retry": str(error)} if isinstance(error, StudySpaceError) else {"reason": "storage", "detail": str(error)}
    except Exception as error:  # the supervisor of an item: one that upsets the code must not stop the others
        logging.getLogger(__name__).exception("%s: %s failed", item, job)
        return {"reason": "internal", "detail": f"{job} failed: {type(error).__name__}"}


def main() -> int:
    """Until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    errors = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # the codecs print what they meet, which may be of a patient
        os.dup2(nowhere, descriptor)
    sys.stderr = os.fdopen(errors, "w", buffering=1)
    logs.setup("dicom-worker")
    for library in ("pydicom", "pynetdicom", "highdicom"):  # their messages quote the data set
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    keep_freed_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with starting():
        for module in ("decode", "answer"):  # before the first radiograph waits for them
            import_module(f"agent.dicom.{module}")
    state_dir, *key_file = sys.argv[1:]
    folders = StudyFolders(Path(state_dir), Path(key_file[0]) if key_file else None)
    with suppress(BrokenPipeError):  # who asked was killed
        for line in sys.stdin:
            job, item = line.split()
            answers.write(json.dumps(outcome(folders, job, item)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
