"""The `dicom` section of the settings: radiographs in, answers out."""

from __future__ import annotations

import ipaddress
import ssl
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from agent.config import LOOPBACK, AnyPath, Config, ExistingFile, HostName
from agent.handed import handed
from agent.tls_settings import TlsSettings

MEBIBYTE = 1024 * 1024


def _title(value: str) -> str:
    if not value.strip() or len(value) > 16 or not value.isascii() or not value.isprintable() or "\\" in value:
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return value.strip()


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is neither an address nor a network such as 192.0.2.0/24") from None
    return value


AeTitle = Annotated[str, AfterValidator(_title)]
Network = Annotated[str, AfterValidator(_network)]


class DicomServerTls(Config):
    """TLS of a listener (Basic TLS profiles of PS3.15, Annex B)."""

    cert_file: ExistingFile
    key_file: ExistingFile
    client_ca_file: ExistingFile | None = Field(
        None, description="Callers must show a certificate of one of these CAs.", examples=["ca.pem"]
    )

    def context(self) -> ssl.SSLContext:
        """What connections are accepted with. Raises OSError, of which ssl.SSLError is a kind, where a file cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.client_ca_file) if self.client_ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.cert_file, handed(self.key_file))
        if self.client_ca_file:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class DicomPeerSettings(Config):
    """Who may send by C-STORE."""

    ae_title: AeTitle = Field(description="Its AE title.", examples=["MODALITY"])
    address: Network = Field(description="Its address, or a network.", examples=["192.0.2.0/24"])


class DicomReceiverSettings(Config):
    """C-STORE and C-ECHO."""

    enabled: bool = True
    ae_title: AeTitle = Field("ALMENA", description="Callers must name this title.")
    host: HostName = Field("127.0.0.1", description="Any address but loopback needs `allow`.")
    port: int = Field(11112, ge=0, le=65535, description="0 takes a free port.")
    allow: tuple[DicomPeerSettings, ...] = Field((), description="Who may call; without entries every title from this machine.")
    tls: DicomServerTls | None = None
    associations: int = Field(8, ge=1, le=64, description="So many callers at once; others are told to come again.")
    idle_s: float = Field(30.0, gt=0, le=3600, description="A caller that is silent for this long is sent away.")

    @model_validator(mode="after")
    def _guarded(self) -> DicomReceiverSettings:
        if self.host not in LOOPBACK and not self.allow:
            raise ValueError(f"{self.host} can be reached from the network: say in dicom.receiver.allow who may send")
        return self


class DicomWebSettings(Config):
    """STOW-RS: POST /dicom-web/studies. It needs a token, or TLS with client certificates."""

    host: HostName = Field("127.0.0.1", description="Any address but loopback needs tls.")
    port: int = Field(8643, ge=0, le=65535, description="0 takes a free port.")
    token_file: ExistingFile | None = Field(
        None, description="Holds the token that callers send as `Authorization: Bearer …`.", examples=["dicom.token"]
    )
    tls: DicomServerTls | None = None

    @model_validator(mode="after")
    def _guarded(self) -> DicomWebSettings:
        if self.host not in LOOPBACK and not self.tls:
            raise ValueError(f"{self.host} can be reached from the network: set dicom.web.tls, or bind to 127.0.0.1")
        if not self.token_file and not (self.tls and self.tls.client_ca_file):
            raise ValueError("set token_file, or tls with client_ca_file: nobody else may send radiographs")
        return self


class DicomFolderSettings(Config):
    """A watched folder of .dcm files; its sub-folders are left alone."""

    path: AnyPath = Field(description="The folder.", examples=["radiographs"])
    after: Literal["move", "delete"] = Field("delete", description="What becomes of a file once it is stored: moved to done/, or deleted.")
    settle_s: float = Field(1.0, ge=0, le=3600, description="A file is read when it has not changed for this long.")
    period_s: float = Field(0.5, gt=0, le=3600, description="Time between two looks into the folder.")


class DicomDestinationSettings(Config):
    """Where reports and heat maps go: by C-STORE to `host`, or by STOW-RS to `url`."""

    url: str | None = Field(
        None,
        description="A STOW-RS service, up to and with /studies.",
        pattern=r"^https?://[^\s@]+$",
        examples=["https://pacs.local/dicom-web/studies"],
    )
    token_file: ExistingFile | None = Field(None, description="Holds the token for it.", examples=["dicom.token"])
    host: HostName | None = Field(None, description="Address of the PACS.", examples=["pacs.local"])
    port: int = Field(104, ge=1, le=65535)
    ae_title: AeTitle = Field("PACS", description="Its AE title.")
    tls: TlsSettings | None = None
    first_retry_s: float = Field(5.0, gt=0, le=3600, description="Wait after the first failure; doubled after each …")
    longest_retry_s: float = Field(300.0, gt=0, le=86400, description="… up to this.")
    give_up_h: float = Field(72.0, gt=0, description="An answer that could not be sent for so many hours is put into studies/dead.")

    @model_validator(mode="after")
    def _one_way(self) -> DicomDestinationSettings:
        if (self.url is None) == (self.host is None):
            raise ValueError("give either host (C-STORE) or url (STOW-RS)")
        if self.url and self.url.startswith("http://") and self.token_file:
            raise ValueError("a token needs an https url")
        return self


class DicomSettings(Config):
    """Radiographs over DICOM, in a process of their own. A stream with `source: {type: dicom}` analyses them."""

    key_file: AnyPath | None = Field(
        None,
        description="The key of what is kept, 0600; default: <state_dir>/studies/key, made at first. "
        "$CREDENTIALS_DIRECTORY/studies.key goes first.",
        examples=["/etc/almena/studies.key"],
    )
    receiver: DicomReceiverSettings = DicomReceiverSettings()
    web: DicomWebSettings | None = None
    folder: DicomFolderSettings | None = None
    destination: DicomDestinationSettings | None = None
    max_instance_bytes: int = Field(128 * MEBIBYTE, ge=MEBIBYTE, le=2048 * MEBIBYTE, description="Larger instances are refused.")
    min_free_bytes: int = Field(256 * MEBIBYTE, ge=0, description="With less free space on the disk instances are refused.")
    keep_h: float = Field(72.0, gt=0, le=8760, description="Pictures and results are deleted so many hours after they were answered.")
