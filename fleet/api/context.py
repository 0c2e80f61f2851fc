"""What the interface is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Engine

from fleet.accounts import Accounts
from fleet.courier import Courier
from fleet.door.live import Views
from fleet.door.pictures import Refusals
from fleet.link import Link
from fleet.settings import HubSettings


@dataclass(frozen=True)
class Context:
    """The hub's parts that requests use."""

    settings: HubSettings
    engine: Engine
    link: Link
    accounts: Accounts
    courier: Courier
    views: Views = field(default_factory=Views)
    refusals: Refusals = field(default_factory=Refusals)
