"""What a command cannot do without, looked for before it fetches or writes anything."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from agent.errors import AlmenaError


def need(modules: Sequence[str], extras: str) -> None:
    """Raises AlmenaError where a module is not installed; `extras`, comma-separated, bring them all."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise AlmenaError(f"not there: {', '.join(missing)}: pip install 'almena[{extras}]'")
