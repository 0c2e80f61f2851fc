"""`almena …`: wiring only. A command's module is imported when the command is called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from agent import __version__

COMMANDS = {
    "demo": "agent.commands.demo:app",
    "run": "agent.commands.run:app",
    "check": "agent.commands.check:app",
    "doctor": "agent.commands.doctor:app",
    "models": "agent.commands.models:app",
    "identity": "agent.commands.identity:app",
    "events": "agent.commands.events:app",
    "build": "agent.commands.build:app",
    "calibrate": "agent.commands.calibrate:app",
    "tune": "agent.commands.tune:app",
    "bench": "agent.commands.bench:app",
    "eval": "agent.commands.evaluate:app",
}


class LazyGroup(TyperGroup):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = typer.main.get_command(getattr(import_module(module), attribute))
        command.name = cmd_name
        return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"almena {__version__}")
        raise typer.Exit


@app.callback()
def almena(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and leave.")) -> None:
    """Almena: an agent for edge devices that see. Start with `almena demo`."""


def main() -> None:
    """The console script."""
    from agent.errors import AlmenaError, SettingsError
    from engines.errors import EngineError, UnknownNameError

    os.umask(0o007)  # state, pictures and reports are for the owner and the group
    try:
        app()
    except (SettingsError, UnknownNameError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except (AlmenaError, EngineError, OSError) as error:
        print(f"almena: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
