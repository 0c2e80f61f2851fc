"""The fleet's folder: its settings, its CA, its register."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from cryptography import x509
from pydantic import AfterValidator, Field, ValidationError

from agent.config import Config, HostName, Line
from agent.errors import SettingsError
from agent.identity.address import Address
from agent.settings_file import write_key
from agent.yaml_file import YamlFile
from provisioning.ca import COMMON_NAME_LETTERS, Authority, KeyFile, ca_request, sealed, signed_by_others, write_private
from provisioning.errors import FleetError, writing

DAY = 86400.0
CREDENTIAL, VARIABLE = "ca.passphrase", "ALMENA_CA_PASSPHRASE"


def _user(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.-]*\$?", name, re.ASCII):
        raise ValueError(f"{name!r} cannot be the name of a user")
    return name


def _of_a_certificate(name: str) -> str:
    try:
        name.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{name!r} is no host name: a part of it is empty, or longer than 63 letters") from error
    if "%" in name:
        raise ValueError(f"{name!r} has a zone (%), which means something on one machine only: give a name or address that all reach")
    return name


def _common_name(name: str) -> str:
    if not name.strip():
        raise ValueError("it is blank: give the CA a name")
    if len(name.encode()) > COMMON_NAME_LETTERS:
        raise ValueError(f"{name!r} is longer than the {COMMON_NAME_LETTERS} bytes that a certificate has for a name")
    return name


def _address(url: str) -> str:
    Address.of(url)
    return url


ServerName = Annotated[HostName, AfterValidator(_of_a_certificate)]


class BrokerSettings(Config):
    """The broker, as devices reach it."""

    host: ServerName = Field(description="Host name or address; part of the broker's certificate.")
    port: int = Field(8883, ge=1, le=65535)
    bind: Literal[""] | HostName = Field("", description="The address on which it listens; empty: all.")
    names: tuple[ServerName, ...] = Field((), description="Further names and addresses for its certificate.")
    delivery: Literal["hub", "broker"] = Field("broker", description="What devices are told: who settles their events.")
    hubs: int = Field(1, ge=1, le=99, description="How many hubs share the work: each gets a certificate of its own.")
    user: Annotated[str, AfterValidator(_user)] = Field("mosquitto", description="The user as whom it runs.")
    folder: Path | None = Field(None, description="Where `almena fleet broker-config` wrote its files, on this machine.")
    reload: tuple[str, ...] = Field(
        (), description="The command by which a broker on another machine gets a new list of revoked certificates; default: SIGHUP."
    )


class FleetSettings(Config):
    """Written by `almena fleet init` as fleet.yaml."""

    name: Annotated[Line, AfterValidator(_common_name)] = "Almena fleet"
    url: Annotated[str, AfterValidator(_address)] = Field(description="Where devices reach `almena fleet enrol-server`.")
    broker: BrokerSettings
    invitation_s: float = Field(DAY, gt=0, le=DAY, description="How long an invitation holds.")
    certificate_s: float = Field(30 * DAY, ge=DAY, le=365 * DAY, description="How long a device's certificate holds.")


class Fleet:
    """A folder with fleet.yaml, ca.pem, ca.p12 and register.sqlite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "fleet.yaml"
        self.settings = _load(self.path)
        self._key = KeyFile(folder / "ca.p12")
        self._certificate = folder / "ca.pem"

    @classmethod
    def make(cls, folder: Path, settings: FleetSettings, passphrase: str, *, external: bool) -> Fleet:
        """A new folder, which is one when it has its ca.p12. Where another CA is to sign, ca.pem is missing until `signed` brings it.

        Raises FleetError.
        """
        cls.checked_vacant(folder)
        authority = Authority.new(settings.name)
        key = sealed(authority.key, passphrase)
        text = yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in ("ca.csr", "ca.pem"):  # of an attempt that broke off
                (folder / left).unlink(missing_ok=True)
            write_private(folder / "fleet.yaml", text.encode())
            if external:
                write_private(folder / "ca.csr", ca_request(settings.name, authority.key), 0o644)
            else:
                write_private(folder / "ca.pem", authority.chain, 0o644)
            write_private(folder / "ca.p12", key)
        return cls(folder)

    @staticmethod
    def checked_vacant(folder: Path) -> None:
        """Raises FleetError where there is a fleet already."""
        if any((folder / name).exists() for name in ("ca.p12", "register.sqlite")):
            raise FleetError(
                f"{folder} holds a fleet already: every device of it would be lost; name another folder (--dir), or put back what is"
                " missing from your copy"
            )

    def checked_unsigned(self) -> None:
        """Raises FleetError where the CA has a certificate already."""
        if self._certificate.exists():
            raise FleetError(f"{self._certificate} is there already: the devices know that CA; start another fleet for another CA")

    def signed(self, pem: bytes, passphrase: str) -> None:
        """Take the CA's certificate as another CA has signed it. Raises FleetError."""
        self.checked_unsigned()
        chain = signed_by_others(pem, self._key.read(passphrase)).chain
        with writing(self._certificate):
            write_private(self._certificate, chain, 0o644)

    def certificate(self) -> x509.Certificate:
        """The CA's. Raises FleetError."""
        return self._chain()[0]

    def authority(self, passphrase: str) -> Authority:
        """The CA, able to sign. Raises FleetError."""
        own, *above = self._chain()
        return Authority(self._key.read(passphrase), own, above)

    @property
    def address(self) -> Address:
        """Where devices expect the enrolment server."""
        return Address.of(self.settings.url)

    def remember_broker(self, folder: Path) -> None:
        """Note where its files are. Raises FleetError, SettingsError."""
        if self.settings.broker.folder != folder.resolve():
            with writing(self.path):
                write_key(self.path, "broker", "folder", str(folder.resolve()), _load)
            self.settings = _load(self.path)

    def _chain(self) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(self._certificate.read_bytes())
        except FileNotFoundError:
            raise FleetError(
                f"{self._certificate} is missing: have {self.folder / 'ca.csr'} signed and run `almena fleet ca import FILE`"
            ) from None
        except (OSError, ValueError) as error:
            raise FleetError(f"{self._certificate} cannot be read: {error}") from error


def passphrase(file: Path | None, *, new: bool = False) -> str:
    """Of the CA's key: from a file, a systemd credential, $ALMENA_CA_PASSPHRASE or, typed, from the terminal. Raises FleetError."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if file is None and credentials and (Path(credentials) / CREDENTIAL).is_file():
        file = Path(credentials) / CREDENTIAL
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise FleetError(f"{file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise FleetError(f"{file} holds no passphrase: it is not UTF-8 text") from error
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if not sys.stdin.isatty():
        raise FleetError(f"the CA's key needs its passphrase: give --passphrase-file, or set ${VARIABLE}")
    typed = getpass.getpass("Passphrase of the CA's key: ")
    if new and getpass.getpass("The same again: ") != typed:
        raise FleetError("the two differ")
    return typed


def _load(path: Path) -> FleetSettings:
    if not path.is_file():
        raise FleetError(f"{path} is missing: `almena fleet init --dir {path.parent}` makes a fleet, --dir names the folder of one")
    file = YamlFile(path)
    try:
        return FleetSettings.model_validate(file.raw)
    except ValidationError as error:
        lines = (f"{path}:{file.line(one['loc'])}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise SettingsError("\n".join(lines)) from error
