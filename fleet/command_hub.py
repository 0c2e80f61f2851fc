"""`almena hub`: the fleet's hub, and what is done on its own machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent import logs
from agent.moments import moment_of
from agent.process import starting
from fleet.command_accounts import AnyRole, Role, UserName
from fleet.command_options import AsJson, PasswordFile, Since, Until, password

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from fleet.settings import HubSettings

app = typer.Typer(add_completion=False, invoke_without_command=True)

PLACES = (Path("hub.yaml"), Path("/etc/almena/hub.yaml"))
"""Where a settings file is looked for that is not named: here, and where the service has it."""


@app.callback()
def hub(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The settings file; hub.yaml here, or the service's.")] = None,
) -> None:
    """Receive, keep and show the events of a fleet: console and API at http://127.0.0.1:8640. Ctrl-C ends it."""
    from fleet import settings

    path = config or next(filter(os.path.isfile, PLACES), None)
    if context.invoked_subcommand == "doctor":
        context.obj = path
        return
    context.obj = settings.load(path) if path else settings.HubSettings()
    if context.invoked_subcommand is None:
        from fleet.ingest.ingest import BATCH_OBJECTS

        with starting(young=BATCH_OBJECTS):
            from fleet.hub import run
        logs.setup("hub")
        raise typer.Exit(run(context.obj))


@app.command("doctor")
def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Look at host, service, settings, certificates and the running hub, and change nothing. Exit code 1 if something fails."""
    from agent.checkup.report import report
    from fleet.checkup import examine

    report(examine(context.obj), as_json)


@app.command("add-user")
def add_user(
    context: typer.Context, name: UserName, role: AnyRole = Role.admin, file: PasswordFile = None, as_json: AsJson = False
) -> None:
    """Add a person on the hub's own machine: the first one, or when nobody knows a password any more. The hub may run meanwhile."""
    from fleet.accounts import Accounts

    with _store(context.obj) as engine:
        Accounts(engine).add_user("command line", name, password(file), role.value)
    print(json.dumps({"name": name, "role": role.value}) if as_json else f"{name} may log in as {role.value}")


@app.command("backup")
def backup(
    context: typer.Context, target: Annotated[Path, typer.Argument(help="A new file, for example hub.gz.")], as_json: AsJson = False
) -> None:
    """Write everything that the hub keeps into one file, 0600. The hub may run meanwhile."""
    from fleet.store.backup import backup as write

    with _store(context.obj) as engine:
        rows = write(engine, target)
    print(json.dumps({"file": str(target), "rows": rows}) if as_json else f"{target}: {rows} rows")


@app.command("restore")
def restore(context: typer.Context, source: Annotated[Path, typer.Argument(help="A back-up.")], as_json: AsJson = False) -> None:
    """Fill an empty database, that of the settings file, from a back-up. No hub runs on it meanwhile. Who was erased since stays so."""
    from fleet.store.backup import restore as fill
    from fleet.store.erased_list import ErasedList, reconcile
    from fleet.store.sole import sole_hub

    with sole_hub(context.obj.store), _store(context.obj) as engine:
        rows = fill(engine, source)
        again = reconcile(engine, ErasedList(context.obj.erased_list))
    found = {"file": str(source), "rows": rows, "erased_again": again}
    print(json.dumps(found) if as_json else f"{rows} rows are back; {again} erasures that are newer than the back-up were made again")


@app.command("export")
def export(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="The file: .csv or .parquet.")],
    device: Annotated[str | None, typer.Option("--device", "-d", help="Only this device.")] = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Write events into a CSV or Parquet file, oldest first, on the hub's own machine. The hub may run meanwhile."""
    from fleet.store.export import export as write

    now = time.time()
    with _store(context.obj) as engine:
        count = write(engine, target, device=device, since=moment_of(since, now), until=moment_of(until, now))
    print(json.dumps({"file": str(target), "events": count}) if as_json else f"{target}: {count} events")


@contextmanager
def _store(settings: HubSettings) -> Iterator[Engine]:
    """The hub's database, of this version. Raises AlmenaError where it cannot be used."""
    from sqlalchemy.exc import SQLAlchemyError

    from fleet.store.database import connect, migrate, unusable

    engine = connect(settings.store)
    try:
        migrate(engine)
        yield engine
    except SQLAlchemyError as error:
        raise unusable(error) from error
    finally:
        engine.dispose()
