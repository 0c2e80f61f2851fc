"""mosquitto's configuration for a fleet. Written for mosquitto 2.0 (Debian 12); `almena fleet acl-matrix` proves it on the one here."""

from __future__ import annotations

import os
import pwd
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from agent.settings import MEBIBYTE
from agent.wire.topics import HUB
from provisioning.ca import Authority, write_private
from provisioning.errors import FleetError, make_folder, writing
from provisioning.register import Register
from provisioning.settings import BrokerSettings

SERVER_LIFETIME = timedelta(days=825)
HUB_LIFETIME = timedelta(days=365)
BROKER = "fleet.broker"
"""Under which name the register has the broker's certificate."""
CRL = "crl.pem"
WATCH = "fleet.watch"
"""Who may see births and wills. No device can have a name with a dot."""

QUEUED = 256 * MEBIBYTE
"""Bytes that wait for one hub."""

_CONFIGURATION = """\
# mosquitto for an Almena fleet, written by `almena fleet broker-config`: do not edit, write it again.
# Whoever connects shows a certificate of the fleet's CA that is not in crl.pem. Its common name is user name and client id.
per_listener_settings false
listener {port}{bind}
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.pem
crlfile {folder}/crl.pem
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {folder}/acl

# What is acknowledged outlives a power cut, except what came at the last moment; with delivery: hub devices send that again.
persistence true
persistence_location {state}/
autosave_on_changes true
autosave_interval 1

# A hub that is away for long finds everything again, up to these limits; beyond them devices keep it.
max_queued_messages 100000
max_queued_bytes {queued}
max_inflight_messages 1000
persistent_client_expiration 30d

# No device takes the memory that all need: who sends larger packets, or what does not fit any more, is disconnected. Others are served.
max_packet_size 1048576
memory_limit {memory}

user {user}
pid_file {state}/mosquitto.pid
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
"""

_ACL = f"""\
# Patterns hold for everybody; %u is the common name of the certificate. What no line allows is refused.
# mosquitto warns that the pattern of {HUB}/state has no %u. That is meant: whoever has a certificate may read it.
pattern write almena/1/%u/status
pattern write almena/1/%u/up/#
pattern read almena/1/%u/down/#
pattern read almena/1/{HUB}/state

user {WATCH}
topic read almena/1/+/status
"""

_HUB_ACL = f"""
user {{name}}
topic read almena/1/+/status
topic read almena/1/+/up/#
topic write almena/1/+/down/#
topic write almena/1/{HUB}/state
"""


def write_configuration(folder: Path, broker: BrokerSettings, authority: Authority, register: Register) -> list[Path]:
    """All that `mosquitto -c FOLDER/mosquitto.conf` needs, and the certificates of the hubs. Returns the files. Raises FleetError."""
    folder = made(folder)
    state = folder / "state"
    owner = _owner(broker.user)
    bind = f" {broker.bind}" if broker.bind else ""
    # what waits for the hubs; what is retained; and what messages take beside their bytes
    limits = {"queued": QUEUED, "memory": (broker.hubs + 2) * QUEUED}
    text = _CONFIGURATION.format(port=broker.port, bind=bind, folder=folder, state=state, user=broker.user, **limits)
    pair = authority.server([broker.host, *broker.names], SERVER_LIFETIME)
    names = hub_names(broker.hubs)
    hubs = {f"{name.replace('.', '-')}.pem": authority.client(name, HUB_LIFETIME) for name in names}
    files = {
        "mosquitto.conf": text.encode(),
        "acl": "".join([_ACL, *(_HUB_ACL.format(name=name) for name in names)]).encode(),
        "ca.pem": authority.chain,
        "broker.pem": pair.pem + authority.links,
    }
    for hub in hubs.values():
        register.add(hub.certificate, "fleet", hub.certificate.public_bytes(Encoding.PEM))
    register.add(pair.certificate, "fleet", pair.certificate.public_bytes(Encoding.PEM), name=BROKER)
    with writing(folder):
        state.mkdir(exist_ok=True, mode=0o700)
        for name, content in files.items():
            write_private(folder / name, content, owner=owner)
        for name, hub in hubs.items():
            write_private(folder / name, hub.pem)
        _write_crl(folder / CRL, authority, register, owner)
        if owner:
            _give_folder(folder, (-1, owner[1]), 0o750)
            _give_folder(state, owner, 0o700)
    return [folder / name for name in (*files, *hubs, CRL)]


def made(folder: Path) -> Path:
    """The folder of the broker's files, made where there is none. Raises FleetError."""
    folder = folder.resolve()
    if any(letter.isspace() or letter == "%" for letter in str(folder)):
        raise FleetError(f"{folder}: mosquitto and units cannot read paths with blanks or %; name another folder")
    make_folder(folder)
    return folder


def hub_names(count: int) -> list[str]:
    """What so many hubs are called in their certificates."""
    return [HUB, *(f"{HUB}.{number}" for number in range(2, count + 1))]


def write_crl(folder: Path, authority: Authority, register: Register) -> Path:
    """The list of revoked certificates anew, owned as before. Raises FleetError: then the broker has the old one."""
    path = folder / CRL
    try:
        before = path.stat()
        _write_crl(path, authority, register, (before.st_uid, before.st_gid))
    except OSError as error:
        raise FleetError(
            f"{path} cannot be written ({error.strerror}), and so the broker still takes what is revoked: make room on the disk, run as the"
            " user who ran `almena fleet broker-config`, and give the command again"
        ) from error
    return path


def _write_crl(path: Path, authority: Authority, register: Register, owner: tuple[int, int] | None) -> None:
    with register.transaction():  # of two lists at once, the later one has all that is revoked
        write_private(path, authority.crl(register.revoked()), owner=owner)


def _give_folder(path: Path, owner: tuple[int, int], mode: int) -> None:
    """Not by its path: what lies above may be somebody's who puts a link there meanwhile. Raises OSError for a link."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(number, *owner)
        os.fchmod(number, mode)
    finally:
        os.close(number)


def _owner(user: str) -> tuple[int, int] | None:
    """To whom root gives the files; None for whoever is not root, or where the broker runs as the same user."""
    if os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise FleetError(f"there is no user {user!r} here: install mosquitto, or give --user") from None
    return (found.pw_uid, found.pw_gid) if found.pw_uid else None
