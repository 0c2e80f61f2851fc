"""The two ways to a PACS: C-STORE and STOW-RS. Both say whether another try can help."""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from typing import Any, Protocol

import httpx
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE

from agent.dicom.sockets import MAX_PDU
from agent.dicom_settings import DicomDestinationSettings
from agent.errors import AlmenaError
from agent.handed import secret_in

WITHIN_S = 30.0
WARNINGS = (0xB000, 0xB006, 0xB007)
"""Stored, though with a change (PS3.4, table B.2-1)."""


class UnreachableError(AlmenaError):
    """The destination does not answer, or has no room now: try again later."""


class RejectedError(AlmenaError):
    """The destination does not want this object."""


class Connection(Protocol):
    """What sends, while it is open."""

    def send(self, data: bytes) -> None:
        """One DICOM file. Raises UnreachableError, RejectedError."""
        ...


def connected(settings: DicomDestinationSettings, ae_title: str) -> AbstractContextManager[Connection]:
    """A connection. Raises UnreachableError when it is entered."""
    return _stow(settings) if settings.url else _association(settings, ae_title)


class _Association:
    def __init__(self, association: Any) -> None:
        self._association = association

    def send(self, data: bytes) -> None:
        try:
            status = self._association.send_c_store(dcmread(BytesIO(data)))
        except ValueError as error:
            raise RejectedError("it takes no objects of this class (its presentation context was not accepted)") from error
        except RuntimeError as error:
            raise UnreachableError("the association ended") from error
        code = status.get("Status")
        if code is None:
            raise UnreachableError("it gave no answer in time, or ended the association")
        if code == 0 or code in WARNINGS:
            return
        if code >> 8 == 0xA7:
            raise UnreachableError(f"it has no room (status {code:04X}H)")
        raise RejectedError(f"it refused with status {code:04X}H")


@contextmanager
def _association(settings: DicomDestinationSettings, ae_title: str) -> Iterator[Connection]:
    entity = AE(ae_title=ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = WITHIN_S
    for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    try:
        tls = (settings.tls.context(), settings.host) if settings.tls else None
        with socket.create_connection((settings.host or "", settings.port), WITHIN_S) as probe:  # pynetdicom leaks one that fails
            host = probe.getpeername()[0]
    except (OSError, ssl.SSLError) as error:
        raise UnreachableError(f"{settings.host}:{settings.port} does not answer: {error.strerror or error}") from error
    association = entity.associate(host, settings.port, ae_title=settings.ae_title, max_pdu=MAX_PDU, tls_args=tls)  # type: ignore[arg-type]
    if not association.is_established:
        how = "rejected the association (AE titles?)" if association.is_rejected else "does not answer"
        raise UnreachableError(f"{settings.ae_title} at {settings.host}:{settings.port} {how}")
    try:
        yield _Association(association)
    finally:
        association.release()


class _Stow:
    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def send(self, data: bytes) -> None:
        boundary = secrets.token_hex(16)
        body = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        try:
            code = self._client.post(self._url, content=body, headers=headers).status_code
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._url} does not answer: {type(error).__name__}") from error
        if code in (200, 202, 204):
            return
        if code in (400, 409, 415, 422):
            raise RejectedError(f"it refused with HTTP status {code}")
        raise UnreachableError(f"{self._url} answered with HTTP status {code}")


@contextmanager
def _stow(settings: DicomDestinationSettings) -> Iterator[Connection]:
    assert settings.url
    try:
        headers = {"Authorization": f"Bearer {secret_in(settings.token_file)}"} if settings.token_file else {}
        verify = settings.tls.context() if settings.tls else ssl.create_default_context()
    except OSError as error:
        raise UnreachableError(f"dicom.destination: {error.strerror or error}") from error
    with httpx.Client(verify=verify, timeout=WITHIN_S, headers=headers, trust_env=False) as client:
        yield _Stow(client, settings.url)
