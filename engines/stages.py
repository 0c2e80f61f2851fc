"""What a model goes through until it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Step = Literal["fetch", "convert", "build", "compare", "measure"]
Stage = Callable[[Step], None]
"""Called when a step begins; one that is not needed is left out."""


def unsaid(step: Step) -> None:
    """Nobody listens."""
