"""Memory that the C library keeps for itself."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Give what was freed back to the system (malloc_trim(3); where the C library is not GNU's, nothing happens).

    To load or to build an engine leaves tens of MB so, in a heap of each thread that took part.
    """
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
