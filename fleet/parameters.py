"""Parts of the paths of the hub's interfaces."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

Number = Annotated[int, Path(ge=1, lt=1 << 63)]
"""Of a row; no database takes a larger one."""
