"""`almena fleet init` and `almena fleet ca`: the fleet's CA."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from agent.errors import UsageError
from agent.identity.keys import fingerprint
from provisioning.broker import SERVER_LIFETIME
from provisioning.ca import write_private
from provisioning.errors import make_place, writing
from provisioning.options import DIR, AsJson, Dir, PassphraseFile
from provisioning.settings import BrokerSettings, Fleet, FleetSettings, ServerName, passphrase

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The CA: its fingerprint, and having it signed by another CA.")


def init(
    url: Annotated[str, typer.Option(help="Where devices will reach the enrolment server, as https://fleet.example.org:8643.")],
    broker: Annotated[str, typer.Option(help="Where devices will reach the broker: HOST or HOST:PORT.")],
    folder: Dir = DIR,
    name: Annotated[str, typer.Option(help="The CA's name, which certificates show.")] = "Almena fleet",
    user: Annotated[str, typer.Option(help="As whom the broker runs.")] = "mosquitto",
    delivery: Annotated[str, typer.Option(help="Who settles events: hub or broker.")] = "broker",
    external: Annotated[bool, typer.Option("--external", help="Another CA is to sign this one: leaves a request in ca.csr.")] = False,
    file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a fleet: a folder with a CA, whose key is encrypted with a passphrase, and fleet.yaml."""
    host, port = _endpoint(broker)
    try:
        where = BrokerSettings.model_validate({"host": host, "port": port, "user": user, "delivery": delivery})
        settings = FleetSettings(name=name, url=url, broker=where)
    except ValidationError as error:
        options = {"host": "broker", "port": "broker"}
        named = ((str(one["loc"][-1]), one["msg"].removeprefix("Value error, ")) for one in error.errors())
        lines = (f"--{options.get(name, name)}: {message}" for name, message in named)
        raise UsageError("\n".join(lines)) from error
    Fleet.checked_vacant(folder)
    fleet = Fleet.make(folder, settings, passphrase(file, new=True), external=external)
    if as_json:
        print(json.dumps({"folder": str(folder), "fingerprint": None if external else pin_of(fleet).hex()}))
        return
    if external:
        print(f"Have {folder / 'ca.csr'} signed as a subordinate CA, and run: almena fleet ca import FILE --dir {folder}")
        return
    print(f"{folder}: a new CA, fingerprint {pin_of(fleet).hex()}; keep a copy of the folder and its passphrase apart from each other")


def door_certificate(
    target: Annotated[Path, typer.Argument(help="The file, which holds key and certificate: door.pem.")],
    names: Annotated[list[str], typer.Argument(help="The hub's host names and addresses, as devices reach it.")],
    folder: Dir = DIR,
    file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the certificate of the hub's door, for `certificate` and `key_file` below `door` in hub.yaml. It holds 825 days."""
    try:
        checked = [TypeAdapter(ServerName).validate_python(name) for name in names]
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    fleet = Fleet(folder)
    make_place(target)
    authority = fleet.authority(passphrase(file))
    with writing(target):
        write_private(target, authority.server(checked, SERVER_LIFETIME).pem + authority.links)
    print(json.dumps({"file": str(target)}) if as_json else f"{target}: key and certificate of the hub's door; give both to the hub")


def _endpoint(text: str) -> tuple[str, int]:
    """Host and port of a broker. Raises UsageError."""
    found = re.fullmatch(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]/]+))(?::(?P<port>\d{1,5}))?", text, re.ASCII)
    try:
        assert found is not None
        host = str(ipaddress.IPv6Address(found["six"])) if found["six"] else found["host"]
    except (AssertionError, ValueError) as error:
        raise UsageError(f"--broker: {text!r} is not HOST or HOST:PORT; an IPv6 address stands in brackets: [2001:db8::1]:8883") from error
    return host, int(found["port"] or 8883)


@app.command()
def show(folder: Dir = DIR, as_json: AsJson = False) -> None:
    """Print the CA's name, when it ends, and its fingerprint (SHA-256)."""
    certificate = Fleet(folder).certificate()
    if as_json:
        print(json.dumps({"fingerprint": fingerprint(certificate).hex(), "ends": f"{certificate.not_valid_after_utc:%Y-%m-%d}"}))
        return
    print(f"{certificate.subject.rfc4514_string()}, until {certificate.not_valid_after_utc:%Y-%m-%d}, signed by", end=" ")
    print("itself" if certificate.subject == certificate.issuer else certificate.issuer.rfc4514_string())
    print(f"fingerprint {fingerprint(certificate).hex()}")


@app.command("import")
def take(
    signed: Annotated[Path, typer.Argument(help="The certificate in PEM, and behind it those of the CAs above, the root last.")],
    folder: Dir = DIR,
    file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Take the CA's certificate as another CA has signed it."""
    fleet = Fleet(folder)
    fleet.checked_unsigned()
    try:
        pem = signed.read_bytes()
    except OSError as error:
        raise UsageError(f"{signed} cannot be read: {error.strerror}") from error
    fleet.signed(pem, passphrase(file))
    print(json.dumps({"fingerprint": pin_of(fleet).hex()}) if as_json else f"taken; fingerprint {pin_of(fleet).hex()}")


def pin_of(fleet: Fleet) -> bytes:
    """What devices know the fleet's CA by. Raises FleetError."""
    return fingerprint(fleet.certificate())
