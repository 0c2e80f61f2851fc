"""`almena identity`: who may be recognised."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from agent import errors, wire
from agent.audit import Entry, audited
from agent.commands.table import print_table
from agent.errors import AlmenaError
from agent.logs import escaped
from agent.outbox import Outbox
from agent.remote import effective
from agent.settings import Settings

if TYPE_CHECKING:
    from agent.vision.enrolment import Refusal, Report
    from agent.vision.face_kit import FaceKit
    from agent.vision.gallery import Gallery, Identity

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Enrol, show, rename and erase the persons who may be recognised.")

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Consent = Annotated[str, typer.Option(help="How the person agreed: kept with the identity.")]


def _to_come(day: datetime | None) -> datetime | None:
    if day and day.replace(tzinfo=timezone.utc) <= datetime.now(timezone.utc):
        raise typer.BadParameter("that day has begun already (UTC); give one that is to come, or leave it out")
    return day


Expires = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], callback=_to_come, help="The identity is erased on this day (UTC).")
]
Name = Annotated[str, typer.Argument(help="The person's name, or the identity's id.")]
ALMENA_YAML = Path("almena.yaml")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The person's name; an enrolled person gets more pictures.")],
    files: Annotated[
        list[Path], typer.Argument(help="JPEG, PNG, BMP, WebP or TIFF pictures, each of this person alone.", exists=True, dir_okay=False)
    ],
    consent: Consent = "",
    expires: Expires = None,
    config: Config = ALMENA_YAML,
    as_json: AsJson = False,
) -> None:
    """Enrol a person from pictures. Pictures that cannot be used are named with the reason."""
    settings = effective(config).settings
    with _kit(settings) as kit:
        report = _enrol(kit, settings, name, files, consent, expires)
    if as_json:
        _print_json(_enrolled(report, files))
    else:
        _tell(report, files)


@app.command("import")
def import_folder(
    folder: Annotated[
        Path,
        typer.Argument(help="A folder that holds one folder of pictures per person, named like the person.", exists=True, file_okay=False),
    ],
    consent: Consent = "",
    expires: Expires = None,
    config: Config = ALMENA_YAML,
    as_json: AsJson = False,
) -> None:
    """Enrol many persons. Exit code 1 if one of them could not be enrolled; the others are."""
    from agent.vision.sources.folder import SUFFIXES

    people = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not people:
        raise typer.BadParameter(f"{folder} holds no folders; make one per person", param_hint="FOLDER")
    results: list[dict[str, Any]] = []
    settings = effective(config).settings
    with _kit(settings) as kit:
        for person in track(people, "Enrolling", console=Console(stderr=True), disable=as_json):
            files = sorted(path for path in person.iterdir() if path.suffix.lower() in SUFFIXES)
            try:
                results.append(_enrolled(_enrol(kit, settings, person.name, files, consent, expires), files))
            except (AlmenaError, OSError) as error:
                results.append({"name": person.name} | errors.as_json(error))
    failed = [result for result in results if "error" in result]
    if as_json:
        _print_json(results)
    else:
        for result in failed:
            typer.echo(f"{result['name']}: {result['error']}", err=True)
        for warning in (warning for result in results for warning in result.get("warnings", ())):
            typer.echo(f"warning: {warning}", err=True)
        print(f"{len(results) - len(failed)} of {len(results)} persons are enrolled")
    if failed:
        raise typer.Exit(1)


@app.command("list")
def list_(config: Config = ALMENA_YAML, as_json: AsJson = False) -> None:
    """All identities."""
    with _gallery(effective(config).settings) as gallery:
        identities = gallery.identities()
    if as_json:
        _print_json([asdict(identity) for identity in identities])
        return
    rows = (
        (one.name, one.id, "needs pictures" if one.needs_pictures else one.pictures, _day(one.expires_at) or "never", one.consent)
        for one in identities
    )
    heads = ("name", "id", "pictures", "expires", "consent")
    print_table(heads, rows, "Nobody is enrolled; `almena identity add NAME PICTURES…` changes that.")


@app.command()
def show(name: Name, config: Config = ALMENA_YAML, as_json: AsJson = False) -> None:
    """One identity."""
    with _gallery(effective(config).settings) as gallery:
        identity = gallery.find(name)
    if as_json:
        _print_json(asdict(identity))
        return
    shown = asdict(identity) | {"created_at": _day(identity.created_at), "expires_at": _day(identity.expires_at) or "never"}
    for key, value in shown.items():
        print(f"{key.removesuffix('_at').replace('_', ' ')}: {escaped(str(value))}")


@app.command()
def rename(
    name: Name,
    new_name: Annotated[str, typer.Argument(help="The new name.")],
    config: Config = ALMENA_YAML,
    as_json: AsJson = False,
) -> None:
    """Give an identity another name."""
    settings = effective(config).settings
    with _gallery(settings) as gallery:
        known = gallery.find(name)
        with _audited(settings, "identity change", id=known.id, fields=["name"]):
            identity = gallery.change(known.id, name=new_name)
    _print_json(asdict(identity)) if as_json else print(f"{identity.id} is now called {identity.name}")


@app.command()
def erase(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: Config = ALMENA_YAML,
    as_json: AsJson = False,
) -> None:
    """Erase a person: templates, pictures, matching clusters, and the name in this device's event history."""
    from agent.vision.erasure import erase as erase_everywhere
    from agent.vision.gallery import UnknownIdentityError

    settings = effective(config).settings
    with _gallery(settings) as gallery:
        try:
            known = gallery.find(name)
            identity, shown = known.id, f"{known.name} with {_pictures(known)}"
        except UnknownIdentityError:
            if not gallery.holds(name):
                raise
            identity = shown = name
        if not yes:
            typer.confirm(f"Erase {shown} for ever?", abort=True, err=True)
        with _outbox(settings) as outbox, audited(outbox, "cli", wire.IDENTITY_ERASE, id=identity) as entry:
            receipt, events = erase_everywhere(gallery, outbox, identity)
            entry.detail["receipt"] = receipt.id
    if as_json:
        _print_json(asdict(receipt) | {"events": events})
    else:
        print(
            f"Erased {receipt.pictures} pictures, {receipt.templates} templates, {receipt.clusters} clusters; {events} events were blanked."
        )
        print(f"Receipt {receipt.id}")


@app.command()
def clusters(config: Config = ALMENA_YAML, as_json: AsJson = False) -> None:
    """Unknown persons who were seen lately, under their pseudonyms."""
    with _gallery(effective(config).settings) as gallery:
        found = gallery.clusters.all()
    if as_json:
        rows = [{"id": one.id, "sightings": one.sightings, "created_at": one.created_at, "seen_at": one.seen_at} for one in found]
        _print_json(rows)
        return
    told = ((one.id, one.sightings, _minute(one.created_at), _minute(one.seen_at)) for one in found)
    print_table(("id", "sightings", "first seen", "last seen"), told, "No unknown person was seen lately.")


@app.command("name-cluster")
def name_cluster(
    cluster: Annotated[str, typer.Argument(help="The pseudonym, u-…")],
    name: Annotated[str, typer.Argument(help="The person's name.")],
    consent: Consent = "",
    expires: Expires = None,
    config: Config = ALMENA_YAML,
    as_json: AsJson = False,
) -> None:
    """Make an identity of an unknown person."""
    settings = effective(config).settings
    with _gallery(settings) as gallery, _audited(settings, "cluster name") as entry:
        identity = gallery.name_cluster(cluster, name, consent, _seconds(expires))
        entry.detail.update(id=cluster, became=identity.id)
    _print_json(asdict(identity)) if as_json else print(f"{cluster} is now {identity.name} ({identity.id})")


@contextmanager
def _outbox(settings: Settings) -> Iterator[Outbox]:
    with closing(Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)) as outbox:
        yield outbox


@contextmanager
def _audited(settings: Settings, action: str, **detail: Any) -> Iterator[Entry]:
    """Nothing is changed if it cannot be recorded: OutboxError."""
    with _outbox(settings) as outbox, audited(outbox, "cli", action, **detail) as entry:
        yield entry


@contextmanager
def _kit(settings: Settings) -> Iterator[FaceKit]:
    from agent.commands.models import progress_bars
    from agent.vision.face_kit import FaceKit, chosen_models

    with progress_bars() as progress:
        kit = FaceKit.open(settings, *chosen_models(settings), progress=progress)
    try:
        yield kit
    finally:
        kit.close()


@contextmanager
def _gallery(settings: Settings) -> Iterator[Gallery]:
    """Without engines: only the embedder's card is read."""
    from agent.vision.face_kit import open_gallery

    with closing(open_gallery(settings)) as gallery:
        yield gallery


def _enrol(kit: FaceKit, settings: Settings, name: str, files: Sequence[Path], consent: str, expires: datetime | None) -> Report:
    """A new person, or more pictures of one who is known. Raises AlmenaError, OSError."""
    from agent.vision.enrolment import EnrolmentError

    with _audited(settings, "identity add") as entry:
        try:
            report = _enrolment(kit, name, [path.read_bytes() for path in files], consent, _seconds(expires))
        except EnrolmentError as error:
            told = EnrolmentError(error.refused, files)
            told.reasons = _refused(error.refused, files)
            raise told from None
        entry.detail["id"] = report.identity.id
    return report


def _enrolment(kit: FaceKit, name: str, images: Sequence[bytes], consent: str, expires_at: float | None) -> Report:
    from agent.vision.gallery import UnknownIdentityError

    try:
        known = kit.gallery.find(name)
    except UnknownIdentityError:
        return kit.enrolment.enrol(name, images, consent, expires_at)
    report = kit.enrolment.add(known.id, images)
    changes = {key: value for key, value in (("consent", consent), ("expires_at", expires_at)) if value}
    if changes:
        kit.gallery.change(known.id, **changes)
    return report


def _enrolled(report: Report, files: Sequence[Path]) -> dict[str, Any]:
    refused = _refused(report.refused, files)
    return asdict(report.identity) | {"accepted": report.accepted, "refused": refused, "warnings": list(report.warnings)}


def _refused(refused: Sequence[Refusal], files: Sequence[Path]) -> list[dict[str, str]]:
    return [{"file": str(files[one.index]), "reason": one.reason, "message": one.message} for one in refused]


def _tell(report: Report, files: Sequence[Path]) -> None:
    for refusal in report.refused:
        typer.echo(f"{files[refusal.index]}: not used: {refusal.message}", err=True)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    print(f"{report.identity.name} is enrolled with {_pictures(report.identity)} ({report.identity.id})")


def _pictures(identity: Identity) -> str:
    return "1 picture" if identity.pictures == 1 else f"{identity.pictures} pictures"


def _seconds(day: datetime | None) -> float | None:
    return None if day is None else day.replace(tzinfo=timezone.utc).timestamp()


def _day(at: float | None) -> str | None:
    return None if at is None else f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d}"


def _minute(at: float) -> str:
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
