"""Errors of models and engines that a user may meet. Each message says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 400
_PLACES = re.compile(
    r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:"  # OpenVINO
    r"|\[ONNXRuntimeError\] : \d+ : \w+ : |/\S*/onnxruntime/\S+:\d+ .*?\) "
)
"""Where in a runtime's sources something went wrong: helps nobody, and stands before what does."""
_NO_MEMORY = re.compile(r"bad.alloc|allocate .*memory|out of memory|OOM when allocating", re.IGNORECASE)
"""What runtimes say where the system gives them no memory; most say it in an error for everything."""


def said(error: BaseException) -> str:
    """What a runtime's error says, on one line and of bounded length."""
    return " ".join(_PLACES.sub("", " ".join(str(error).split())).split())[:_LONGEST].rstrip(".")


class EngineError(Exception):
    """An engine cannot be built, loaded or run. The message names the model, the tensor where there is one, and what to do."""


class NotFiniteError(EngineError):
    """An output holds NaN or infinity."""


class TooLittleMemoryError(EngineError):
    """Memory did not suffice to build, load or measure; the message names the model, its shape and batch."""


class MissingRuntimeError(EngineError):
    """A runtime or converter library is not installed; the message says what to install."""


class ModelFileError(EngineError):
    """A model file is not what it should be: truncated, of another format, or with operators that a backend does not know."""


class UnsupportedOperatorError(ModelFileError):
    """A runtime lacks an operator that a model needs; the message names the node, where the runtime or the file tells it."""


class WrongHashError(ModelFileError):
    """A file's SHA-256 is not the one expected. The file was moved to `quarantine/` and is never loaded."""


class FetchError(EngineError):
    """A model file cannot be obtained; the message says from where and what can be done."""


class UnknownNameError(EngineError):
    """No card, asset, backend or decoder of that name; the message lists those that exist."""


@contextmanager
def memory_told(what: str) -> Iterator[None]:
    """Turn what Python, numpy and the runtimes raise for want of memory into TooLittleMemoryError about `what`."""
    try:
        yield
    except (MemoryError, EngineError) as error:
        if isinstance(error, EngineError) and not _NO_MEMORY.search(str(error)):
            raise
        raise TooLittleMemoryError(f"{what}: too little memory: take a smaller shape or batch") from error
