"""`almena fleet`: who belongs to the fleet, and its broker."""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import segno
import typer

from agent import logs
from agent.errors import UsageError
from agent.identity.protocol import Token
from agent.signals import at_stop
from agent.wire.topics import HUB
from provisioning import command_ca
from provisioning.errors import FleetError, make_place, writing
from provisioning.options import DIR, AsJson, Dir, PassphraseFile
from provisioning.register import KEPT_DECISIONS, Register
from provisioning.settings import Fleet, passphrase
from provisioning.upkeep import Upkeep, ending

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The fleet's side of identity: CA, invitations, broker, revocation.")
app.command("init")(command_ca.init)
app.command("door-certificate")(command_ca.door_certificate)
app.add_typer(command_ca.app, name="ca")

Name = Annotated[str, typer.Argument(help="The device's name.")]


@app.command()
def invite(
    name: Name,
    folder: Dir = DIR,
    hours: Annotated[float | None, typer.Option(min=0.01, max=24, help="How long it holds; default: as fleet.yaml says.")] = None,
    qr: Annotated[bool | None, typer.Option("--qr/--no-qr", help="A QR code of the command; default: in a terminal.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the command by which a device of this name may join, once."""
    fleet = Fleet(folder)
    checked_name(name)
    pin = command_ca.pin_of(fleet)
    holds_s = hours * 3600 if hours else fleet.settings.invitation_s
    with _register(fleet) as register:
        known = next((one for one in register.devices() if one.name == name), None)
        secret = register.invite(name, holds_s)
        register.note("invite", name, "invited", f"for {holds_s / 3600:g} hours")
    command = f"almena join {fleet.settings.url} {Token(name, secret, pin)}"
    if as_json:
        print(json.dumps({"name": name, "command": command, "expires_at": time.time() + holds_s}))
        return
    if known and known.revoked_at is None and known.ends_at > time.time():
        typer.echo(f"{name} has a certificate until {_day(known.ends_at)}; if that device is lost: almena fleet revoke {name}", err=True)
    print(f"{name} may join within {holds_s / 3600:g} hours, once. On the device (with sudo where Almena is a service):\n\n  {command}\n")
    if sys.stdout.isatty() if qr is None else qr:
        segno.make(command, micro=False, error="l").terminal(compact=True)


@app.command("enrol-server")
def enrol_server(
    folder: Dir = DIR,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: that of url in fleet.yaml; 0 takes a free one.")] = None,
    also_watch: Annotated[bool, typer.Option("--watch", help="Watch the broker for two devices with one identity, too.")] = False,
    file: PassphraseFile = None,
) -> None:
    """Give out certificates to devices that were invited, and renew them. Ctrl-C ends it."""
    from provisioning.enrolment import Enrolment
    from provisioning.server import EnrolServer, serve
    from provisioning.watch import watch as look
    from provisioning.watch import watch_in_turn

    logs.setup("enrol")
    fleet = Fleet(folder)
    authority = fleet.authority(passphrase(file))
    stopping = _stopping()
    with _register(fleet) as register:
        server = EnrolServer(fleet, Enrolment(authority, register, fleet.settings), host, fleet.address.port if port is None else port)
        one = partial(look, fleet.settings.broker, authority, register, stopping)
        watching = partial(watch_in_turn, fleet.folder, one, stopping) if also_watch else None
        print(f"almena: devices may join at {fleet.settings.url} (listening on {host}:{server.port}); Ctrl-C ends it", flush=True)
        serve(server, Upkeep(fleet, register), watching, stopping)


@app.command("broker-config")
def broker_config(
    target: Annotated[Path, typer.Argument(help="The folder for mosquitto's configuration; made if it is not there.")],
    folder: Dir = DIR,
    file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write mosquitto's configuration, access rules, certificates and revocation list. Once a year, again: it makes new certificates."""
    from provisioning.broker import made, write_configuration

    fleet = Fleet(folder)
    made(target)
    with _register(fleet) as register:
        written = write_configuration(target, fleet.settings.broker, fleet.authority(passphrase(file)), register)
    fleet.remember_broker(target)
    if as_json:
        print(json.dumps({"files": [str(path) for path in written]}))
        return
    print("\n".join(str(path) for path in written))
    print(f"Start the broker with: mosquitto -c {written[0]}; hub.pem is the hub's key and certificate, and opens every device's data")


@app.command()
def revoke(name: Name, folder: Dir = DIR, file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """Refuse a device, the hub or a claim from now on, end its session at once, and say how long that took. Ends an invitation, too."""
    from provisioning.broker import BROKER
    from provisioning.client import Endpoint
    from provisioning.revocation import reload_by, take_back
    from provisioning.revocation import revoke as carry_out

    if name == BROKER:
        raise FleetError(
            "the broker's certificate cannot be revoked: devices ask no list for it. `almena fleet broker-config DIR` writes a new one; if"
            " the key of the old one was stolen, make a new fleet with `almena fleet init`, and join the devices again"
        )
    fleet = Fleet(folder)
    broker = fleet.settings.broker
    with _register(fleet) as register:
        if not register.knows(name) and register.withdraw(name):
            register.note("revoke", name, "withdrawn", "its invitation, or what it asked for")
            print(json.dumps({"certificates": 0}) if as_json else f"{name} has no certificate, and gets none: its invitation does not hold")
            return
        if broker.folder is None or not register.knows(name):
            count = take_back(name, register)
            told = f"{name} is revoked: {count} certificate(s); the broker will hear it from the files of `almena fleet broker-config DIR`."
            print(json.dumps({"certificates": count}) if as_json else f"{told} {_way_back(name, fleet)}")
            return
        authority = fleet.authority(passphrase(file))
        endpoint = Endpoint(broker.host, broker.port, authority.pem)
        done = carry_out(name, authority, register, broker.folder, endpoint, reload_by(broker.reload, fleet.path, broker.folder))
    if as_json:
        print(json.dumps(asdict(done)))
        return
    print(
        f"{name} is revoked: {done.certificates} certificate(s); refused after {done.in_force_s:.2f} s, the session ended after"
        f" {done.disconnected_s:.2f} s. {_way_back(name, fleet)}"
    )


@app.command()
def devices(folder: Dir = DIR, as_json: AsJson = False) -> None:
    """List devices with the state of their certificates."""
    with _register(Fleet(folder)) as register:
        found = [
            {"name": one.name, "state": _state(one.revoked_at, one.ends_at), "ends": _day(one.ends_at), "serial": f"{one.serial:x}"}
            for one in register.devices()
        ]
    _print(found, as_json, "no devices yet: almena fleet invite NAME")


@app.command()
def requests(folder: Dir = DIR, as_json: AsJson = False) -> None:
    """List what waits for a decision, or for its device: renewals after their time, devices with a claim of the factory."""
    with _register(Fleet(folder)) as register:
        found = [
            {
                "id": one.id, "kind": one.kind, "name": one.name, "from": one.address, "asked": _moment(one.asked_at),
                "state": one.decision or "waits", "why": one.reason,
            }
            for one in register.requests()
        ]  # fmt: skip
    _print(found, as_json, "nothing waits")


@app.command()
def approve(
    request: Annotated[str, typer.Argument(help="Its number, from `almena fleet requests`.")], folder: Dir = DIR, as_json: AsJson = False
) -> None:
    """Say yes to a request: the device gets its certificate when it asks next."""
    _decide(folder, request, as_json, yes=True)


@app.command()
def refuse(
    request: Annotated[str, typer.Argument(help="Its number, from `almena fleet requests`.")], folder: Dir = DIR, as_json: AsJson = False
) -> None:
    """Say no to a request; also to one that was approved, until its device has fetched the certificate."""
    _decide(folder, request, as_json, yes=False)


@app.command()
def claim(
    batch: Annotated[str, typer.Argument(help="What the devices of this batch are called together.")],
    out: Annotated[Path, typer.Argument(help="The file for the devices: key, claim certificate and CA.")],
    folder: Dir = DIR,
    days: Annotated[int, typer.Option(min=1, max=1825, help="How long it holds.")] = 365,
    file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a claim for devices that leave a factory: with it they may ask for an identity, and the operator is asked about each."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from agent.identity.keys import Pair, new_key
    from provisioning.ca import COMMON_NAME_LETTERS, write_private

    fleet = Fleet(folder)
    checked_name(batch)
    name = f"claim.{batch}"
    if len(name) > COMMON_NAME_LETTERS:
        raise UsageError(f"{batch!r} is too long: at most {COMMON_NAME_LETTERS - len('claim.')} letters")
    make_place(out)
    authority = fleet.authority(passphrase(file))
    key = new_key()
    certificate = authority.claim(name, key.public_key(), timedelta(days=days))
    with _register(fleet) as register:
        register.add(certificate, "claim", certificate.public_bytes(Encoding.PEM))
        register.note("claim", name, "made", f"for {days} days")
        with writing(out):
            write_private(out, Pair(key, certificate).pem + authority.pem)
    if as_json:
        print(json.dumps({"file": str(out), "ends": _day(certificate.not_valid_after_utc.timestamp())}))
        return
    print(f"{out}: on each device, `almena join {fleet.settings.url} --claim {out.name} --name NAME`; then `almena fleet requests`")


@app.command()
def decisions(
    folder: Dir = DIR, limit: Annotated[int, typer.Option(min=1, max=KEPT_DECISIONS, help="How many.")] = 50, as_json: AsJson = False
) -> None:
    """List who got what, who did not, and why: the newest last."""
    with _register(Fleet(folder)) as register:
        names = ("action", "name", "outcome", "why", "from")
        found = [{"at": _moment(at), **dict(zip(names, rest, strict=True))} for at, *rest in register.decisions(limit)]
    _print(found, as_json, "no decisions yet")


@app.command()
def watch(folder: Dir = DIR, file: PassphraseFile = None) -> None:
    """Watch the broker for two devices with one identity, and say so. Ctrl-C ends it. Refused while another process does the same."""
    from provisioning.watch import sole_watch
    from provisioning.watch import watch as look

    logs.setup("watch")
    fleet = Fleet(folder)
    authority = fleet.authority(passphrase(file))
    with sole_watch(fleet.folder), _register(fleet) as register:
        look(fleet.settings.broker, authority, register, _stopping())


@app.command("acl-matrix")
def acl_matrix(as_json: AsJson = False) -> None:
    """Start mosquitto with a fleet's configuration on this machine, try every role on every topic, and time a revocation."""
    from provisioning.trial import Trial
    from provisioning.trying import prove

    with tempfile.TemporaryDirectory(prefix="almena-acl-") as scratch, Trial(Path(scratch)) as trial:
        proof = prove(trial)
    if as_json:
        print(json.dumps({"rows": proof.matrix.found, "will_on_another": proof.will, "revocation": proof.revocation, "wrong": proof.wrong}))
    else:
        print(proof.matrix.table())
        print(f"\n{proof.text}")
    if proof.wrong:
        raise FleetError("the broker does not keep the rules:\n" + "\n".join(proof.wrong))


def checked_name(name: str) -> None:
    """Raises UsageError for what cannot be a device's name."""
    from pydantic import ValidationError

    from agent.settings import DeviceSettings

    try:
        DeviceSettings(name=name)
    except ValidationError as error:
        raise UsageError(f"{name!r} cannot be a name: lower-case letters, digits and dashes, at most 63; `hub` is reserved") from error


@contextmanager
def _register(fleet: Fleet) -> Iterator[Register]:
    try:
        with closing(Register(fleet.folder / "register.sqlite")) as register:
            with suppress(FleetError):  # of a CA that is still to be signed
                for text in ending(fleet, register):
                    typer.echo(text, err=True)
            yield register
    except sqlite3.Error as error:
        raise FleetError(
            f"{fleet.folder / 'register.sqlite'} cannot be used ({error}): is there room on the disk, may you write?"
        ) from error


def _decide(folder: Path, request: str, as_json: bool, *, yes: bool) -> None:
    with _register(Fleet(folder)) as register:
        decision: Literal["approved", "refused"] = "approved" if yes else "refused"
        found = register.decide(request, decision)
        if found is None:
            raise UsageError(
                f"no request {request!r} waits: `almena fleet requests` lists them; a device that has its certificate is refused with"
                " `almena fleet revoke NAME`"
            )
        before = f", which was {found.decision} before" if found.decision not in ("", decision) else ""
        register.note(found.kind, found.name, decision, f"by the operator: request {found.id}{before}")
    if as_json:
        print(json.dumps({"id": found.id, "kind": found.kind, "name": found.name, "decision": decision}))
        return
    then = "; the device gets its certificate when it asks next" if yes else ""
    print(f"{found.kind} of {found.name}{before}: {decision}{then}")


def _way_back(name: str, fleet: Fleet) -> str:
    """How who was revoked goes on."""
    role, _, batch = name.partition(".")
    if role == HUB:
        command = f"`almena fleet broker-config {fleet.settings.broker.folder or 'DIR'}`"
        return f"To go on: {command} writes new certificates; give each hub its new file, and start it again."
    if role == "claim":
        return f"Devices that have joined with it stay; `almena fleet claim {batch} FILE` makes another one."
    return "It may come back with a new invitation."


def _stopping() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    stopping = threading.Event()
    at_stop(stopping.set)
    return stopping


def _state(revoked_at: float | None, ends_at: float) -> str:
    return "revoked" if revoked_at is not None else "expired" if ends_at < time.time() else "in force"


def _print(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(nothing)
        return
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    for row in [{key: key for key in widths}, *rows]:
        print("  ".join(logs.escaped(str(row[key])).ljust(width) for key, width in widths.items()).rstrip())


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d}"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M:%S}"
