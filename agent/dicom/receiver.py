"""C-STORE and C-ECHO (PS3.4, Annexes A and B): an instance is acknowledged once it is durable."""

from __future__ import annotations

import logging
import threading
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from agent.dicom.counters import Counters
from agent.dicom.intake import Intake, RefusedError
from agent.dicom.reading import STORAGE, SYNTAXES, place
from agent.dicom.sockets import MAX_PDU, BoundedReader, BoundedServer, Limits, allows
from agent.dicom_settings import DicomReceiverSettings
from agent.errors import AlmenaError

log = logging.getLogger(__name__)

SUCCESS = 0x0000
STATUS = {
    "no-space": 0xA700, "storage": 0xA701, "uid-mismatch": 0xA900, "sop-class": 0x0122, "too-large": 0xA702, "conflict": 0xC101,
    "uid": 0x0117,
}  # fmt: skip
"""Status codes of refusals (PS3.7, Annex C; PS3.4, table B.2-1): A7xx may be tried again, the others are about the instance."""
CANNOT_UNDERSTAND = 0xC000
UNKNOWN_CALLER = (0x01, 0x01, 0x03)
"""Rejected for good, by the service user: the calling AE title is not recognised (PS3.8, 9.3.4)."""
ENDING_S = 1.0
SLACK = 1024 * 1024
"""Bytes of a message besides its data set."""


class Receiver:
    """Listens from `start` on; `port` is then the one in use."""

    def __init__(self, settings: DicomReceiverSettings, max_bytes: int, intake: Intake, counters: Counters) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._intake = intake
        self._counters = counters
        self._server: BoundedServer | None = None
        self._entity: AE | None = None

    @property
    def port(self) -> int:
        """0 before the start."""
        return int(self._server.server_address[1]) if self._server else 0

    def start(self) -> None:
        """Raises AlmenaError if the address cannot be used."""
        settings = self._settings
        _config.LOG_HANDLER_LEVEL = "none"
        _config.LOG_RESPONSE_IDENTIFIERS = _config.LOG_REQUEST_IDENTIFIERS = False
        entity = AE(ae_title=settings.ae_title)
        entity.require_called_aet = True
        entity.maximum_associations = settings.associations
        entity.maximum_pdu_size = MAX_PDU
        entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = settings.idle_s
        for sop_class in STORAGE:
            entity.add_supported_context(sop_class, list(SYNTAXES))
        entity.add_supported_context(Verification)
        networks = tuple(peer.address for peer in settings.allow)
        limits = Limits(settings.associations, settings.idle_s, self._max_bytes + SLACK, networks, self._counters)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_REJECTED, lambda _event: self._counters.refused("association")),
            (evt.EVT_REQUESTED, self._on_requested),
        ]
        try:
            tls = settings.tls.context() if settings.tls else None
            self._server = BoundedServer(
                limits,
                entity,
                (settings.host, settings.port),
                settings.ae_title,
                entity.supported_contexts,
                ssl_context=tls,
                evt_handlers=handlers,
            )
        except OSError as error:
            raise AlmenaError(f"dicom.receiver: {settings.host}:{settings.port} cannot be used: {error.strerror or error}") from error
        entity._servers.append(self._server)
        self._entity = entity
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dicom-receiver", daemon=True).start()

    def stop(self) -> None:
        """Abort associations and close the port. Those that are ending anyway end first: they take no abort (PS3.8, 9.2.3, Sta13)."""
        if self._entity:
            for association in self._entity.active_associations:
                if not association.is_established and association.is_alive():
                    association.join(ENDING_S)
            self._entity.shutdown()

    def _on_requested(self, event: Any) -> None:
        """A title is allowed from the addresses that stand beside it, not from any other's."""
        if not self._settings.allow:
            return
        requestor = event.assoc.requestor
        title = str(getattr(requestor.primitive, "calling_ae_title", "")).strip()
        networks = tuple(peer.address for peer in self._settings.allow if peer.ae_title == title)
        if not (networks and allows(networks, requestor.address)):
            event.assoc.acse.send_reject(*UNKNOWN_CALLER)
            event.assoc.kill()
            self._counters.refused("association")

    def _on_store(self, event: Any) -> int | Dataset:
        reader: BoundedReader = event.assoc.reader
        received_ns = reader.last_byte_ns
        reader.taken()
        try:
            self._intake.accept(event.encoded_dataset(), received_ns, str(event.request.AffectedSOPInstanceUID))
        except RefusedError as error:
            log.warning("an instance was refused: %s: %s", error.reason, error)
            return _status(STATUS.get(error.reason, CANNOT_UNDERSTAND), str(error))
        except Exception as error:  # noqa: BLE001 - the supervisor of an association; the message may quote the data set
            log.error("an instance could not be taken: %s at %s", type(error).__name__, place(error))
            return _status(CANNOT_UNDERSTAND, "internal error; the log of the receiver has its place")
        return SUCCESS


def _status(code: int, comment: str) -> Dataset:
    """With an Error Comment of at most 64 characters (VR LO)."""
    status = Dataset()
    status.Status = code
    status.ErrorComment = comment[:64]
    return status
