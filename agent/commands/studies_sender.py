"""Modalities that take little of the processor from what is measured: radiographs of noise by C-STORE (PS3.7, 9.3.1; PS3.8, 9.3), or by
STOW-RS (PS3.18, 10.5)."""

from __future__ import annotations

import re
import socket
import struct
import time
from http.client import OK, HTTPResponse
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from agent.commands.studies_load import Syntax
from agent.dicom.sockets import MAX_PDU

CONTEXT = 1
ACCEPTED, DATA = 0x02, 0x04
COMMAND, LAST = 0x01, 0x02
"""Bits of a fragment's control header (PS3.8, E.2)."""
RELEASE = bytes.fromhex("0500 00000004 00000000")
STATUS = bytes.fromhex("0000 0009 02000000")
"""Tag and length of a response's status; two bytes of it follow."""
ANSWER_S = 60.0
SYNTAXES: dict[Syntax, UID] = {
    "explicit": ExplicitVRLittleEndian, "jpeg-ls": JPEGLSLossless, "rle": RLELossless
}  # fmt: skip
HEADS = 2048
"""Bytes before the pixels at most."""
FIRST = 10**6
"""Numbers of one length."""


class Modality:
    """One association with ALMENA at a port of this machine, for square radiographs of `side` pixels that differ in their UIDs alone."""

    def __init__(self, port: int, side: int, syntax: Syntax) -> None:
        """Raises OSError where there is none."""
        self._side = side
        self._command = _command(side)
        self._radiograph = _radiograph(side, syntax)
        self._uid_at = self._radiograph.index(_uid(side, 0).encode())
        self._caller = _connected(port)
        self._caller.sendall(_request(SYNTAXES[syntax]))
        if self._answer()[0] != ACCEPTED:
            self._caller.close()
            raise ConnectionRefusedError("the association was rejected")

    def send(self, number: int) -> bool:
        """Whether it was taken."""
        uid = _uid(self._side, number).encode()
        self._radiograph[self._uid_at : self._uid_at + len(uid)] = uid
        self._fragments(self._command.replace(_uid(self._side, 0).encode(), uid), COMMAND)
        self._fragments(self._radiograph, 0)
        answer = self._answer()
        place = answer.find(STATUS) + len(STATUS)
        return answer[0] == DATA and answer[place : place + 2] == b"\0\0"

    def close(self) -> None:
        """Release the association."""
        self._caller.sendall(RELEASE)
        self._answer()
        self._caller.close()

    def _fragments(self, data: bytes | bytearray, kind: int) -> None:
        most = MAX_PDU - 6
        for start in range(0, len(data), most):
            part = memoryview(data)[start : start + most]
            control = kind | (LAST if start + most >= len(data) else 0)
            self._caller.sendall(struct.pack(">BBLLBB", DATA, 0, len(part) + 6, len(part) + 2, CONTEXT, control))
            self._caller.sendall(part)

    def _answer(self) -> bytes:
        """One PDU. Raises ConnectionError where none comes."""
        head = self._exactly(6)
        return head + self._exactly(int.from_bytes(head[2:], "big"))

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            if not (part := self._caller.recv(count - len(found))):
                raise ConnectionError("the association was aborted")
            found += part
        return found


class Uploader:
    """One connection to ALMENA's STOW-RS at a port of this machine, for the same radiographs, one in a request."""

    def __init__(self, port: int, side: int, syntax: Syntax, token: str) -> None:
        """Raises OSError where there is none."""
        uid = _uid(side, 0)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DigitalXRayImageStorageForPresentation, UID(uid)
        meta.TransferSyntaxUID = SYNTAXES[syntax]
        file = DicomBytesIO()
        write_file_meta_info(file, meta)
        part = b"\r\n--radiograph\r\nContent-Type: application/dicom\r\n\r\n" + bytes(128) + b"DICM" + file.getvalue()
        self._body = bytearray(part + _radiograph(side, syntax) + b"\r\n--radiograph--\r\n")
        self._side = side
        self._uids_at = [found.start() for found in re.finditer(re.escape(uid.encode()), self._body[:HEADS])]
        self._head = (
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(self._body)}\r\n"
            f"Authorization: Bearer {token}\r\n"
            'Content-Type: multipart/related; type="application/dicom"; boundary=radiograph\r\n\r\n'
        ).encode()
        self._caller = _connected(port)

    def send(self, number: int) -> bool:
        """Whether it was taken."""
        uid = _uid(self._side, number).encode()
        for place in self._uids_at:
            self._body[place : place + len(uid)] = uid
        self._caller.sendall(self._head)
        self._caller.sendall(self._body)
        answer = HTTPResponse(self._caller)
        answer.begin()
        answer.read()
        return answer.status == OK

    def close(self) -> None:
        """End it."""
        self._caller.close()


def send(port: int, side: int, syntax: Syntax, numbers: range, pause_s: float, token: str = "") -> int:
    """Radiographs over one association or, with the token for STOW-RS, one connection; how many were refused."""
    try:
        modality = Uploader(port, side, syntax, token) if token else Modality(port, side, syntax)
    except OSError:
        return len(numbers)
    taken = 0
    try:
        for number in numbers:
            taken += modality.send(number)
            time.sleep(pause_s)
        modality.close()
    except OSError:
        pass
    return len(numbers) - taken


def _connected(port: int) -> socket.socket:
    caller = socket.create_connection(("127.0.0.1", port), ANSWER_S)
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return caller


def _radiograph(side: int, syntax: Syntax) -> bytearray:
    """The data set of the first one: noise alone, or smooth with a little noise where it is compressed."""
    random = np.random.default_rng(side)
    if syntax == "explicit":
        return bytearray(_head(side) + random.integers(0, 4096, (side, side), np.uint16).tobytes())
    waves = np.sin(np.linspace(0, 9, side))
    pixels = (2000 + 1500 * np.outer(waves, waves) + random.normal(0, 15, (side, side))).astype(np.uint16)
    dataset = _described(side)
    dataset.file_meta = FileMetaDataset()
    dataset.compress(SYNTAXES[syntax], pixels, generate_instance_uid=False)
    return bytearray(_encoded(dataset, implicit=False))


def _uid(side: int, number: int) -> str:
    return f"1.2.3.4.{side}.{FIRST + number}"


def _head(side: int) -> bytes:
    """The data set of the first radiograph up to its pixels, which are not compressed."""
    return _encoded(_described(side), implicit=False) + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 2 * side * side)


def _described(side: int) -> Dataset:
    """The first radiograph without its pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, _uid(side, 0)
    dataset.Modality, dataset.ViewPosition, dataset.BodyPartExamined = "DX", "PA", "CHEST"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = "MONOCHROME2", 1, 0
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    return dataset


def _command(side: int) -> bytes:
    """Of a C-STORE-RQ; its numbers may repeat, for one is sent at a time."""
    command = Dataset()
    command.AffectedSOPClassUID, command.AffectedSOPInstanceUID = DigitalXRayImageStorageForPresentation, _uid(side, 0)
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 0x0001, 1, 0, 0x0001
    command.CommandGroupLength = len(_encoded(command, implicit=True))
    return _encoded(command, implicit=True)


def _encoded(dataset: Dataset, implicit: bool) -> bytes:
    found = encode(dataset, implicit, True)
    assert found is not None
    return found


def _request(syntax: UID) -> bytes:
    """An A-ASSOCIATE-RQ for radiographs."""
    wanted: Any = A_ASSOCIATE()
    wanted.application_context_name = "1.2.840.10008.3.1.1.1"
    wanted.calling_ae_title, wanted.called_ae_title = "BENCH", "ALMENA"
    context = build_context(DigitalXRayImageStorageForPresentation, syntax)
    context.context_id = CONTEXT
    wanted.presentation_context_definition_list = [context]
    length, maker = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, maker.implementation_class_uid = MAX_PDU, "1.2.3.4"
    wanted.user_information = [length, maker]
    return bytes(A_ASSOCIATE_RQ(wanted).encode())
