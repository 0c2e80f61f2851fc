"""`almena …`: wiring only. A command's module is imported when the command is called."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from agent import __version__, errors, logs
from agent.errors import AlmenaError, UnknownError, UsageError
from engines.errors import EngineError, UnknownNameError

COMMANDS = {
    "demo": "agent.commands.demo:app",
    "demo-xray": "agent.commands.demo_xray:app",
    "run": "agent.commands.run:app",
    "check": "agent.commands.check:app",
    "doctor": "agent.commands.doctor:app",
    "join": "agent.commands.join:app",
    "renew": "agent.commands.renew:app",
    "hub": "fleet.command_hub:app",
    "fleet": "provisioning.command:app fleet.command:app",
    "simulate": "fleet.simulate.command:app",
    "models": "agent.commands.models:app",
    "identity": "agent.commands.identity:app",
    "events": "agent.commands.events:app",
    "studies": "agent.commands.studies:app",
    "build": "agent.commands.build:app",
    "calibrate": "agent.commands.calibrate:app",
    "tune": "agent.commands.tune:app",
    "bench": "agent.commands.bench:app fleet.bench.command:app",
    "eval": "agent.commands.evaluate:app",
    "train": "training.command:app",
    "install": "provisioning.host.commands:installing",
    "uninstall": "provisioning.host.commands:uninstalling",
    "rollback": "provisioning.host.commands:rolling_back",
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
        command, *others = [_command(place) for place in COMMANDS[cmd_name].split()]
        for other in others:  # a group whose commands live in several packages
            command.commands |= other.commands
        command.name = cmd_name
        return command

    def main(self, *arguments: Any, **options: Any) -> Any:
        """An error ends with a message on standard error and an exit code: 2 for what the caller got wrong, 1 for what failed.

        Where --json is given, it is on standard output, too, as a line of JSON: {"error": …, "reasons": […]}.
        """
        given = options.get("args")
        as_json = "--json" in (sys.argv[1:] if given is None else given)
        try:
            return super().main(*arguments, **options)
        except (UsageError, UnknownError, UnknownNameError) as error:
            _end(2, error, str(error), as_json)
        except (AlmenaError, EngineError, OSError) as error:
            _end(1, error, f"almena: {error}", as_json)
        except ModuleNotFoundError as error:
            if not (extra := _extra_of(error.name or "")):
                raise
            missing = AlmenaError(f"this needs {error.name}, which is not installed: pip install 'almena[{extra}]'")
            _end(1, missing, f"almena: {missing}", as_json)
        except SystemExit as ended:  # what the command line is read with has said the error already
            cause: Any = ended.__context__
            if as_json and (isinstance(cause, typer.Abort) or hasattr(cause, "format_message")):
                _print(AlmenaError("aborted" if isinstance(cause, typer.Abort) else cause.format_message()))
            raise


def _command(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return typer.main.get_command(getattr(import_module(module), attribute))


def _extra_of(module: str) -> str:
    """The first extra of pyproject.toml that brings a module; empty where none does."""
    package = re.escape(module.partition(".")[0])
    try:
        lines = requires("almena") or []
    except PackageNotFoundError:
        return ""
    found = (re.match(rf"{package}\b[^;]*;.*extra == ['\"](\w+)", line) for line in lines)
    return next((match[1] for match in found if match), "")


def _end(code: int, error: Exception, message: str, as_json: bool) -> NoReturn:
    """Say an error and leave."""
    print(message, file=sys.stderr)
    if as_json:
        _print(error)
    sys.exit(code)


def _print(error: Exception) -> None:
    print(json.dumps(errors.as_json(error), ensure_ascii=False))


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
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was begun is ended, and cleared away
    os.umask(0o007)  # state, pictures and reports are for the owner and the group
    os.environ["PYTHONSAFEPATH"] = "1"  # of processes begun from here: from Python 3.11 on none looks for modules where somebody stands
    logs.setup("almena", logging.WARNING)
    app()


if __name__ == "__main__":
    main()
