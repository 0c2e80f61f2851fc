"""The two ways to a PACS: C-STORE and STOW-RS. Both say whether another try can help."""

from __future__ import annotations

import json
import re
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
FAILED = "00081198"
"""Failed SOP Sequence in a Store Instances Response (PS3.18, annex I)."""
PROCESSING_FAILURE = 0x0110
"""Says nothing about the object (PS3.7, annex C): a disk or a database of the PACS may be away."""
FAILED_XML = re.compile(rb'tag="00081198"[^>]*>\s*<Item')
WARNINGS = (0xB000, 0xB006, 0xB007)
"""Stored, though with a change (PS3.4, table B.2-1)."""


class UnreachableError(AlmenaError):
    """The destination does not answer: try again later."""


class PostponedError(AlmenaError):
    """This object cannot go now (the destination has no room for it, or the file cannot be opened): try it later, and others meanwhile."""


class RejectedError(AlmenaError):
    """The destination does not want this object."""


class Connection(Protocol):
    """What sends, while it is open."""

    def send(self, data: bytes) -> None:
        """One DICOM file. Raises UnreachableError, PostponedError, RejectedError."""
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
            raise PostponedError(f"it has no room (status {code:04X}H)")
        if code == PROCESSING_FAILURE:
            raise PostponedError(f"it could not process it (status {code:04X}H)")
        raise RejectedError(f"it refused with status {code:04X}H")


@contextmanager
def _association(settings: DicomDestinationSettings, ae_title: str) -> Iterator[Connection]:
    entity = AE(ae_title=ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = WITHIN_S
    for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association: Any = None
    try:
        tls: Any = (settings.tls.context(), settings.host) if settings.tls else None
        for *_, address in socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM):
            association = entity.associate(str(address[0]), settings.port, ae_title=settings.ae_title, max_pdu=MAX_PDU, tls_args=tls)
            if association.is_established or association.is_rejected:
                break
    except (OSError, ssl.SSLError) as error:
        raise UnreachableError(f"{settings.host}:{settings.port} does not answer: {error.strerror or error}") from error
    if not association.is_established:
        raise UnreachableError(f"{settings.ae_title} at {settings.host}:{settings.port} {_why_not(association, settings)}")
    try:
        yield _Association(association)
    finally:
        association.release()


def _why_not(association: Any, settings: DicomDestinationSettings) -> str:
    """An association that was not established. Only now a bare connection is made: a PACS may count it as one of its associations."""
    if association.is_rejected:
        said = association.acceptor.primitive
        return f"rejected the association: {said.reason_str.lower()} ({said.result_str.lower()}, {said.source_str.lower()})"
    try:
        socket.create_connection((settings.host or "", settings.port), WITHIN_S).close()
    except OSError as error:
        return f"does not answer: {error.strerror or error}"
    return "does not answer: the connection is made, and no association comes of it (is TLS set as there?)"


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
            answer = self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._url} does not answer: {type(error).__name__}") from error
        code = answer.status_code
        listed = _listed(answer.content)
        if code in (200, 202, 204) and not listed:
            return
        if code in (500, 507):
            raise PostponedError(f"it answered with HTTP status {code}")
        if code in (200, 202, 204, 400, 409, 413, 415, 422):
            raise RejectedError(f"it refused with HTTP status {code}{'; the instance is in its list of failures' if listed else ''}")
        raise UnreachableError(f"{self._url} answered with HTTP status {code}")


def _listed(body: bytes) -> bool:
    """Whether there is something in a server's Failed SOP Sequence, which may be there and empty (PS3.18, annex I)."""
    try:
        return bool(json.loads(body)[FAILED].get("Value"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return FAILED_XML.search(body) is not None


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
