"""The settings file: YAML in, frozen models out. An unknown key is an error that names its path and line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from agent.config import LOOPBACK, AnyPath, Config, ExistingFile, Folder, HostName, Line, PasswordHash, matching
from agent.dicom_settings import DicomSettings
from agent.errors import SettingsError
from agent.handed import secret_in
from agent.hub_settings import HubLinkSettings
from agent.registry import SOURCES, TASKS, UnknownPluginError, config_of
from agent.remote_settings import RemoteSettings
from agent.serving_settings import ServingSettings
from agent.tls_settings import TlsSettings, WebTlsSettings
from agent.yaml_file import Place, YamlFile

Name = Annotated[
    str, matching(r"[a-z0-9][a-z0-9-]{0,62}", "be lower-case letters, digits and dashes, at most 63, and begin with a letter or a digit")
]
HttpsUrl = Annotated[str, matching(r"https://[^\s@/]+(/\S*)?", "begin with https://, and hold neither spaces nor a name or password")]
Word = Annotated[str, matching(r"[a-z0-9]+", "be lower-case letters and digits")]
MEBIBYTE = 1024 * 1024
DAY = 86400.0
IN_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "is required",
    "invalid_key": "a key must be text: put it in quotes",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "string_type": "must be text: put it in quotes",
    "path_type": "must be a path",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
"""What pydantic says in Python's words, by its name of the error."""


class DeviceSettings(Config):
    """Who this device is."""

    name: Name = Field("almena", description="Lower-case letters, digits and dashes; part of every MQTT topic.")

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == "hub":
            raise ValueError("'hub' is reserved for the fleet's hub; choose another name")
        return value


class StreamSettings(Config):
    """One source and what is done with its frames."""

    name: Name = Field(description="Part of the stream's topics.")
    source: Any = Field(description="Where frames come from; `type` chooses the source.")
    tasks: tuple[Any, ...] = Field((), description="What is done with each frame; `type` chooses the task.")

    @model_validator(mode="after")
    def _belong_together(self) -> StreamSettings:
        alone = [task.type for task in self.tasks if getattr(task, "goes_with", "")]
        if alone and len(self.tasks) > 1:
            raise ValueError(f"{alone[0]} stands alone in its stream")
        for task in self.tasks:
            for one, other in ((task, self.source), (self.source, task)):
                needed = getattr(one, "goes_with", "")
                if needed and needed != getattr(other, "type", needed):
                    raise ValueError(f"{one.type} goes only with {needed}, not with {other.type}")
        return self


class EngineSettings(Config):
    """How models are run."""

    backend: Literal["auto", "openvino", "onnxruntime", "tensorrt", "litert", "tensorflow"] = Field(
        "auto", description="`auto` takes what `almena tune` found best here; before that, the first of these that is installed."
    )
    unit: Word = Field(
        "auto", description="What the backend computes on: cpu, gpu, npu, cuda, tensorrt, dla0 …; `almena doctor` lists them."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="`auto` takes the fastest that passes the card's parity check; int8 takes part where `almena calibrate` was run.",
    )
    policy: Literal["latency", "throughput", "efficiency"] = Field(
        "throughput", description="What the engines are built and tuned for; efficiency is few joules for each picture."
    )
    retune: Literal["auto", "off"] = Field(
        "auto",
        description="`auto` tunes anew, beside the streams and not on battery, where driver, runtime, power mode or model have changed.",
    )
    retune_budget_s: float = Field(60.0, ge=1, le=3600, description="How long that may measure for each model.")
    models_dir: AnyPath | None = Field(None, description="Where model files are kept; default: <state_dir>/models.")


class LaneSettings(Config):
    """Limits of one lane of the outbox."""

    max_bytes: int = Field(
        256 * MEBIBYTE, ge=MEBIBYTE, description="Unsettled rows beyond this are evicted, oldest first, and declared as lost."
    )
    max_age_s: float = Field(30 * DAY, gt=0, description="Unsettled rows older than this expire and are declared as lost.")


class AuditLaneSettings(Config):
    """Limits of the audit lane, which neither evicts nor expires."""

    max_bytes: int = Field(
        32 * MEBIBYTE, ge=MEBIBYTE, description="With unsettled rows beyond this, commands and changes of identities are refused."
    )


class OutboxSettings(Config):
    """The durable queue between the two processes."""

    event: LaneSettings = LaneSettings()
    telemetry: LaneSettings = LaneSettings(max_bytes=32 * MEBIBYTE, max_age_s=7 * DAY)
    audit: AuditLaneSettings = AuditLaneSettings()
    history_bytes: int = Field(256 * MEBIBYTE, ge=0, description="Settled rows are kept as local history up to this size …")
    history_age_s: float = Field(30 * DAY, ge=0, description="… and this age.")


class IdentitySettings(Config):
    """The certificate that `almena join` got: `mqtt` connects with it, and it is renewed by itself."""

    url: HttpsUrl = Field(description="The enrolment server of the fleet.", examples=["https://fleet.example.org:8643"])


class MqttSettings(Config):
    """The broker. Without this section results are kept on the device only."""

    embedded_broker: bool = Field(
        False,
        description="`almena run` starts a small broker on loopback at `port`; it keeps nothing.",
    )
    host: HostName = Field("127.0.0.1", description="Host name or address of the broker.")
    port: int = Field(1883, ge=1, le=65535)
    version: Literal["auto", "5", "3.1.1"] = Field(
        "auto", description="`auto` speaks 5 and falls back only when the broker says that it does not."
    )
    delivery: Literal["hub", "broker", "none"] = Field(
        "broker",
        description="Who settles an event: the hub after its commit, the broker on receipt, or nobody.",
    )
    username: Line | None = None
    password: SecretStr | None = Field(None, description="Better: password_file.")
    password_file: ExistingFile | None = None
    tls: TlsSettings | None = None
    keepalive_s: int = Field(30, ge=5, le=3600)
    inflight: int = Field(100, ge=1, le=10000, description="Messages under way at once.")
    live_per_second: float = Field(0.0, ge=0, le=30, description="Live detections a second and stream at QoS 0; 0 is off.")

    @model_validator(mode="after")
    def _one_password(self) -> MqttSettings:
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        return self

    def secret(self) -> str | None:
        """The password, wherever it is kept. Raises UnreadableError."""
        if self.password_file is not None:
            return secret_in(self.password_file)
        return self.password.get_secret_value() if self.password else None


class LoginSettings(Config):
    """Who may open the local page."""

    username: Line = "admin"
    password_hash: PasswordHash = Field(description="An argon2id hash, printed by `almena doctor --hash-password`.")


class WebSettings(Config):
    """The local page and REST."""

    enabled: bool = True
    host: HostName = Field("127.0.0.1", description="Any address but loopback needs tls and login.")
    port: int = Field(8642, ge=0, le=65535, description="0 takes a free port.")
    allowed_hosts: tuple[HostName, ...] = Field((), description="Further host names under which the page may be reached.")
    tls: WebTlsSettings | None = None
    login: LoginSettings | None = None
    preview_per_second: float = Field(10.0, gt=0, le=30, description="Pictures a second of the live view.")
    preview_width: int = Field(960, ge=160, le=3840, description="Its width in pixels at most.")

    @model_validator(mode="after")
    def _guarded(self) -> WebSettings:
        if self.host not in LOOPBACK and not (self.tls and self.login):
            raise ValueError(f"{self.host} can be reached from the network: set web.tls and web.login, or bind to 127.0.0.1")
        return self


class TelemetrySettings(Config):
    """What the device says about itself."""

    period_s: float = Field(30.0, ge=1, le=3600)


class ClusterSettings(Config):
    """Pseudonymous clusters of unknown persons."""

    enabled: bool = Field(True, description="Give unknown persons a stable pseudonym across visits.")
    max_age_s: float = Field(DAY, gt=0, description="A cluster that nobody matched for this long is erased.")
    max_count: int = Field(1000, ge=1, le=100000)


class GallerySettings(Config):
    """Enrolled identities. Templates and pictures are encrypted at rest."""

    key_file: AnyPath | None = Field(
        None,
        description="The key, 0600; default: <state_dir>/gallery/key, made at first. $CREDENTIALS_DIRECTORY/gallery.key goes first.",
    )
    clusters: ClusterSettings = ClusterSettings()


class Settings(Config):
    """All settings of one agent."""

    device: DeviceSettings = DeviceSettings()
    state_dir: Folder = Field(Path("almena-state"), description="Outbox, gallery, engines, sockets.")
    streams: tuple[StreamSettings, ...] = ()
    engines: EngineSettings = EngineSettings()
    serving: ServingSettings = ServingSettings()
    gallery: GallerySettings = GallerySettings()
    dicom: DicomSettings | None = None
    outbox: OutboxSettings = OutboxSettings()
    identity: IdentitySettings | None = None
    mqtt: MqttSettings | None = None
    hub: HubLinkSettings | None = None
    remote: RemoteSettings = RemoteSettings()
    web: WebSettings = WebSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _identity_connects(self) -> Settings:
        if self.identity and self.mqtt:
            if self.mqtt.tls or self.mqtt.embedded_broker:
                raise ValueError("identity brings what mqtt.tls would say, and a broker of its own: take tls and embedded_broker away")
            pair = self.identity_dir / "device.pem"
            tls = TlsSettings.model_construct(ca_file=self.identity_dir / "ca.pem", cert_file=pair, key_file=pair)
            object.__setattr__(self, "mqtt", self.mqtt.model_copy(update={"tls": tls}))
        return self

    @model_validator(mode="after")
    def _hub_knows_the_device(self) -> Settings:
        if self.hub and not (self.identity and self.mqtt):
            raise ValueError("the hub knows a device by its certificate and asks over the broker: add the sections identity and mqtt")
        return self

    @model_validator(mode="after")
    def _radiographs_have_one_way(self) -> Settings:
        takers = [stream.name for stream in self.streams if getattr(stream.source, "type", "") == "dicom"]
        if len(takers) > 1:
            raise ValueError(f"only one stream can take radiographs, and there are {', '.join(takers)}")
        if takers and self.dicom is None:
            raise ValueError(f"the stream {takers[0]} takes radiographs, and there is no section `dicom` by which they arrive; add it")
        return self

    @field_validator("streams")
    @classmethod
    def _unique(cls, streams: tuple[StreamSettings, ...]) -> tuple[StreamSettings, ...]:
        names = [stream.name for stream in streams]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"stream names must differ; given twice: {', '.join(twice)}")
        return streams

    def summary(self) -> dict[str, Any]:
        """What the hub may know: which settings these are, by a digest, and the tasks of each stream."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
        return {
            "settings": digest,
            "streams": {stream.name: [getattr(task, "type", "?") for task in stream.tasks] for stream in self.streams},
        }

    @property
    def idle(self) -> str:
        """Why nothing will be looked at; empty where something is."""
        return "" if self.streams or self.serving.models else "there are no streams, so nothing is looked at: name some under `streams`"

    @property
    def models_dir(self) -> Path:
        """Where model files are kept."""
        return self.engines.models_dir or self.state_dir / "models"

    @property
    def engines_dir(self) -> Path:
        """Where built engines and their passports are kept."""
        return self.state_dir / "engines"

    @property
    def outbox_dir(self) -> Path:
        """Where the lanes are kept."""
        return self.state_dir / "outbox"

    @property
    def identity_dir(self) -> Path:
        """Where this device's key and certificate are kept."""
        return self.state_dir / "identity"

    @property
    def gallery_dir(self) -> Path:
        """Where identities are kept."""
        return self.state_dir / "gallery"

    @property
    def shares_identities(self) -> bool:
        """Whether identities that other devices share may be here."""
        return self.hub is not None and self.hub.identities

    @property
    def instance(self) -> str:
        """What tells this agent from others of the machine."""
        return hashlib.sha256(str(self.state_dir.resolve()).encode()).hexdigest()[:16]

    @property
    def control_socket(self) -> Path:
        """The vision process's Unix socket."""
        return self.state_dir / "run" / "vision.sock"


def load(path: Path, *, but: Collection[str] = ()) -> Settings:
    """Read and check a settings file, `but` for sections that are not looked at. Raises SettingsError with one line for each thing that is
    wrong."""
    file = YamlFile(path)
    raw = {name: section for name, section in file.raw.items() if name not in but} if isinstance(file.raw, dict) else file.raw
    settings, problems = parse({} if raw is None else raw, {"base": path.resolve().parent})
    problems += [(place, "given twice") for place in file.repeated]
    if problems or settings is None:
        raise SettingsError("\n".join(f"{path}:{file.line(place)}: {dotted(place)}{message}" for place, message in problems))
    return settings


def parse(raw: Any, context: dict[str, Any]) -> tuple[Settings | None, list[tuple[Place, str]]]:
    """Settings from their values, or what is wrong with them, and where. `context` tells paths what they count from."""
    problems: list[tuple[Place, str]] = []
    if isinstance(raw, dict):
        raw = _with_plugins(raw, context, problems)
    try:
        return Settings.model_validate(raw, context=context), problems
    except ValidationError as error:
        return None, problems + [(detail["loc"], _plain(detail)) for detail in error.errors()]


def _with_plugins(raw: dict[str, Any], context: dict[str, Any], problems: list[tuple[Place, str]]) -> dict[str, Any]:
    """`raw` with the sections of sources and tasks replaced by their plug-ins' own settings."""

    def plugin(table: dict[str, str], value: Any, what: str, place: Place) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            problems.append((place, f"must be a mapping with `type`, one of: {', '.join(sorted(table))}"))
            return value
        try:
            return config_of(table, value["type"], what).model_validate(value, context=context)
        except UnknownPluginError as error:
            problems.append(((*place, "type"), str(error)))
        except ValidationError as error:
            problems.extend(((*place, *detail["loc"]), _plain(detail)) for detail in error.errors())
        return value

    streams = raw.get("streams")
    if not isinstance(streams, list):
        return raw
    expanded = []
    for index, stream in enumerate(streams):
        if isinstance(stream, dict):
            stream = dict(stream)
            if "source" in stream:
                stream["source"] = plugin(SOURCES, stream["source"], "source", ("streams", index, "source"))
            if isinstance(stream.get("tasks"), list):
                stream["tasks"] = [
                    plugin(TASKS, task, "task", ("streams", index, "tasks", number)) for number, task in enumerate(stream["tasks"])
                ]
        expanded.append(stream)
    return {**raw, "streams": expanded}


def _plain(detail: Any) -> str:
    if detail["type"] in IN_WORDS:
        return IN_WORDS[detail["type"]]
    message: str = detail["msg"].removeprefix("Value error, ")
    return re.sub("^(Input|String) should ", "must ", message)


def dotted(place: Place) -> str:
    """`streams[0].source: `, to go before what is wrong there."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    return f"{text}: " if text else ""
