"""`almena install`, `almena uninstall`, `almena rollback`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from agent.errors import UsageError
from provisioning.host import install as host
from provisioning.host.machine import Kit, kit
from provisioning.host.places import Places
from provisioning.host.plan import Plan
from provisioning.host.releases import Recipe, own_wheel

installing = typer.Typer(add_completion=False)
uninstalling = typer.Typer(add_completion=False)
rolling_back = typer.Typer(add_completion=False)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Root = Annotated[Path, typer.Option("--root", help="The root of a mounted image, instead of this system.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the steps as JSON.")]
SLASH = Path("/")


@contextmanager
def _planned(dry_run: bool, as_json: bool) -> Iterator[Plan]:
    """A plan that tells its steps as they are done, or at the end as JSON. A connection that drops does not end the work."""
    steps: list[str] = []
    plan = Plan(dry=dry_run, say=steps.append if as_json else print)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield plan
    finally:
        signal.signal(signal.SIGHUP, before)
    if as_json:
        print(json.dumps({"steps": steps, "changed": plan.changed}, indent=2))


@installing.command()
def install(
    wheel: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The wheel to install; default: made of this checkout.")
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="A folder of wheels that everything comes from, without network.")
    ] = None,
    extras: Annotated[str, typer.Option(help="Optional parts, such as cpu,openvino,rtsp,dicom; default: what suits this machine.")] = "",
    environment: Annotated[
        bool, typer.Option("--environment/--without-environment", help="Without it: accounts, folders and units only.")
    ] = True,
    hub: Annotated[bool, typer.Option("--hub", help="A fleet's hub instead of a device.")] = False,
    root: Root = SLASH,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Install or upgrade Almena as a service. What is as it should be stays; an upgrade that does not start goes back by itself."""
    places, suited = Places(root.resolve(), hub=hub), Kit(("hub",)) if hub else kit(root)
    with _planned(dry_run, as_json) as plan, ExitStack() as stack:
        recipe = None
        if environment:
            chosen = tuple(part.strip() for part in extras.split(",") if part.strip()) or suited.extras
            if hub != ("hub" in chosen):
                raise UsageError("the extra `hub` goes with --hub, and with nothing else")
            recipe = Recipe(wheel or stack.enter_context(own_wheel()), chosen, suited.system_site, suited.also, wheels)
            if unknown := sorted(set(chosen) - set(offered := recipe.offered)):
                raise UsageError(f"there is no extra {', '.join(unknown)} in {recipe.wheel.name}; it has {', '.join(offered)}")
        host.install(places, recipe, plan)
        if not plan.changed:
            plan.say("everything is as it should be")
        elif not dry_run:
            look = "sudo almena hub doctor" if hub else f"sudo almena doctor --config {places.settings}"
            plan.say(f"installed; settings: {places.settings}; look with: {look}")


@uninstalling.command()
def uninstall(
    purge: Annotated[bool, typer.Option("--purge", help="Remove settings, keys and all data, too.")] = False,
    root: Root = SLASH,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove the service and all that `almena install` made. Settings, keys and data stay."""
    with _planned(dry_run, as_json) as plan:
        places = Places(root.resolve())
        host.require_alone(places)
        host.uninstall(places, plan, purge=purge)


@rolling_back.command()
def rollback(root: Root = SLASH, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Run the version before the last upgrade again."""
    with _planned(dry_run, as_json) as plan:
        host.rollback(Places.found(root.resolve()), plan)
