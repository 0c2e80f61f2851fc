"""What `almena doctor` looks at: one function for each thing, none of which changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `advice` says what to do about a warn or a fail."""

    name: str
    state: State
    text: str
    advice: str = ""
