"""The hub's settings: `hub.yaml` in, frozen models out. An unknown key is an error that names its line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from agent.config import LOOPBACK, Config, ExistingFile, HostName, Line
from agent.errors import SettingsError
from agent.handed import secret_in
from agent.settings import DAY
from agent.tls_settings import TlsSettings, WebTlsSettings
from agent.yaml_file import YamlFile
from fleet.web_address import WebAddress

SQLITE = "sqlite:///"


def _beside_settings(url: str, info: ValidationInfo) -> str:
    """A relative path of a SQLite file counts from the folder of the settings file."""
    if not url.startswith(SQLITE):
        return url
    base: Path = (info.context or {}).get("base", Path.cwd())
    return f"{SQLITE}{base / Path(url.removeprefix(SQLITE)).expanduser()}"


def _beside_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path counts from the folder of the settings file."""
    base: Path = (info.context or {}).get("base", Path.cwd())
    return base / path.expanduser()


class BrokerSettings(Config):
    """The broker that the devices speak to."""

    host: HostName = "127.0.0.1"
    port: int = Field(1883, ge=1, le=65535)
    version: Literal["auto", "5", "3.1.1"] = Field("auto", description="Version of MQTT; `auto` speaks 5 where the broker does.")
    client_id: str = Field("almena-hub", min_length=1, max_length=64, description="Of the session that the broker keeps.")
    username: Line | None = None
    password_file: ExistingFile | None = None
    tls: TlsSettings | None = None
    share: str = Field(
        "",
        pattern=r"^[a-z0-9-]{0,32}$",
        description="A name that several hubs on one PostgreSQL have in common: the broker deals the messages out among them."
        " Each needs a client_id of its own, and the devices `delivery: hub`.",
    )

    def secret(self) -> str | None:
        """The password, if there is one. Raises UnreadableError."""
        return secret_in(self.password_file) if self.password_file else None


class RetentionSettings(Config):
    """How long things are kept. Losses and audits of devices stay as long as events."""

    events_s: float = Field(365 * DAY, gt=0)
    pictures_s: float = Field(30 * DAY, gt=0, description="Pictures; never longer than events. 5,000 of events of each device at most.")
    samples_s: float = Field(2 * DAY, ge=3600, description="Telemetry as it came.")
    minutes_s: float = Field(14 * DAY, ge=DAY, description="Telemetry by the minute.")
    hours_s: float = Field(730 * DAY, ge=DAY, description="Telemetry by the hour.")
    history_s: float = Field(730 * DAY, ge=DAY, description="Commands, alerts that are over, and the audit of what people did.")
    refused_s: float = Field(90 * DAY, gt=0, description="Messages that could not be stored, and replies; 64 MiB of each at most.")


class HubWebSettings(Config):
    """Where the console and the API are."""

    host: HostName = Field("127.0.0.1", description="Any address but loopback needs tls.")
    port: int = Field(8640, ge=0, le=65535, description="0 takes a free port.")
    allowed_hosts: tuple[HostName, ...] = Field((), description="Further host names under which the console may be reached.")
    tls: WebTlsSettings | None = None

    @model_validator(mode="after")
    def _guarded(self) -> HubWebSettings:
        if self.host not in LOOPBACK and not self.tls:
            raise ValueError(f"{self.host} can be reached from the network: set web.tls, or bind to 127.0.0.1")
        return self


class DoorSettings(Config):
    """Where devices come in with the certificates of their fleet: pictures, live view, shared identities."""

    host: HostName = Field("0.0.0.0", description="The address on which it listens.")
    port: int = Field(8641, ge=0, le=65535, description="0 takes a free port.")
    certificate: ExistingFile = Field(
        description="The door's certificate, signed by the CA that the devices know: `almena fleet door-certificate`."
    )
    key_file: ExistingFile = Field(description="Its key; it may be in the same file.")
    client_ca: ExistingFile = Field(description="The fleet's ca.pem.")
    crl: ExistingFile | None = Field(
        None, description="The list of revoked certificates, crl.pem beside the broker's configuration; it is read again when it changes."
    )
    viewers: Literal["viewer", "operator", "admin"] = Field(
        "operator", description="The least role that may look at pictures and live views."
    )


class EmailSettings(Config):
    """Where e-mails of alerts leave."""

    host: HostName
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: Line | None = None
    password_file: ExistingFile | None = None
    sender: Line
    recipients: tuple[Line, ...] = Field(min_length=1)


class WebhookSettings(Config):
    """An address to which alerts are posted."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    url: WebAddress
    secret_file: ExistingFile | None = Field(None, description="Signs what is posted: HMAC-SHA256.")


class AlertSettings(Config):
    """Who is told of alerts. Which alerts there are stands in the console."""

    period_s: float = Field(5.0, ge=0.1, le=300, description="How often the rules are looked at.")
    email: EmailSettings | None = None
    webhooks: tuple[WebhookSettings, ...] = ()


class HubSettings(Config):
    """All settings of a hub."""

    store: Annotated[str, AfterValidator(_beside_settings)] = Field(
        "sqlite:///almena-hub.sqlite", description="sqlite:///FILE, or postgresql://USER@HOST/NAME with its password in ~/.pgpass."
    )
    erasures: Annotated[Path, AfterValidator(_beside_file)] | None = Field(
        None,
        description="Where stands who was erased, so that a back-up that is put back does not bring them back: keep it apart from the"
        " back-ups. Default: FILE.erased, or almena-hub.erased here with PostgreSQL.",
    )
    broker: BrokerSettings = BrokerSettings()
    web: HubWebSettings = HubWebSettings()
    door: DoorSettings | None = None
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()

    @property
    def erased_list(self) -> Path:
        """Where stands who was erased."""
        beside = self.store.removeprefix(SQLITE) if self.store.startswith(SQLITE) else "almena-hub"
        return self.erasures or Path(f"{beside}.erased")

    @model_validator(mode="after")
    def _alone_on_sqlite(self) -> HubSettings:
        if self.broker.share and self.store.startswith(SQLITE):
            raise ValueError("several hubs need PostgreSQL: set store to postgresql://…, or take broker.share away")
        return self


def load(path: Path) -> HubSettings:
    """Read and check a settings file. Raises SettingsError with one line for each thing that is wrong."""
    file = YamlFile(path)
    problems: list[tuple[tuple[Any, ...], str]] = [(place, "given twice") for place in file.repeated]
    try:
        settings = HubSettings.model_validate({} if file.raw is None else file.raw, context={"base": path.resolve().parent})
    except ValidationError as error:
        problems += [(one["loc"], one["msg"].removeprefix("Value error, ")) for one in error.errors()]
    if problems:
        lines = (f"{path}:{file.line(place)}: {'.'.join(map(str, place))}: {message}" for place, message in problems)
        raise SettingsError("\n".join(lines))
    return settings
