"""The backends that are here for a model."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from engines.backends.base import Backend
from engines.card import ModelCard
from engines.convert import reachable
from engines.errors import EngineError, MissingRuntimeError
from engines.registry import BACKENDS, MODULES, resolve

log = logging.getLogger(__name__)


def installed(card: ModelCard) -> list[Backend]:
    """The backends that are installed here and read the card's model, in the registry's order."""
    return [backend for name in BACKENDS if (backend := _loaded(name)) is not None and _reads(backend, card)]


def _loaded(name: str) -> Backend | None:
    """The backend; None where its runtime is not installed, and, told in the log, where it cannot be loaded."""
    if find_spec(MODULES[name]) is None:
        return None
    try:
        backend: Backend = resolve(BACKENDS, name, "backend")()
    except MissingRuntimeError as error:
        log.warning("%s", error)
        return None
    return backend


def choose_backend(card: ModelCard, wish: str) -> Backend:
    """The backend of that name; `auto` takes the first of the registry that is installed and reads the card's format."""
    if wish != "auto":
        backend: Backend = resolve(BACKENDS, wish, "backend")()
        if not _reads(backend, card):
            raise EngineError(f"{card.name}: {wish} cannot read {card.format} models; choose another backend")
        return backend
    for name in BACKENDS:
        found = _loaded(name)
        if found is not None and found.units() and _reads(found, card):
            return found
    raise MissingRuntimeError(f"{card.name}: no runtime that reads it is installed: pip install 'almena[openvino]' or 'almena[cpu]'")


def _reads(backend: Backend, card: ModelCard) -> bool:
    return any(reachable(card, wanted) for wanted in backend.formats)
