"""Radiographs on their way through the device: what the DICOM process and the vision process hand each other, sealed at rest.

```
inbox/    instances as they came, durable before they are acknowledged    ── decode ──► pictures/, or failed/ with a reason
pictures/ 8-bit pictures that wait for a task                             ── event committed ──► shown/
shown/    pictures that the page may show, until they are too old
results/  what a model said of a picture, durable before its event is committed; the answer to the PACS is made of inbox/ and results/
failed/   instances that cannot be used, with the reason
reports/  failures that wait to be told   ── event committed ──► gone
answers/  reports and captures that wait to be sent
answered/ receipts: keyed hashes of the pixels that were answered
dead/     instances whose answer no destination took, with the reason
```

An item is named by a keyed hash of its SOP Instance UID, so that no name of a file, event or log line leads to a patient.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.poly1305 import Poly1305

from agent.errors import AlmenaError, UnknownError
from agent.outbox.guard import sync_folder
from agent.spares import Spares
from agent.vault import Vault, VaultKeyError, load_key
from engines.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ITEM = re.compile(r"[0-9a-f]{32}")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StudyError(AlmenaError):
    """A piece of a study cannot be written or read."""


class StudySpaceError(StudyError):
    """The disk is full."""


class DamagedStudyError(StudyError):
    """A piece is not what was written, or was sealed with another key."""


class UnknownStudyError(StudyError, UnknownError):
    """There is no such piece of that item."""


@dataclass(frozen=True, slots=True)
class StudyInstance:
    """An instance as it came: a DICOM file (PS3.10) in bytes, Unix time in seconds and monotonic time of its last byte.

    `received_ns` is of this boot's clock: compare it only if it lies before now and not far from `received_at`'s age.
    """

    item: str
    data: bytes
    received_at: float
    received_ns: int


@dataclass(frozen=True, slots=True)
class StudyPicture:
    """A radiograph as a task sees it. `image` is (H, W) uint8, black is air, bone is white, in the frame of the stored pixels.

    `view`, `body_part`, `laterality` and `modality` are those of the tags, upper case, "" where a tag is absent or no plain word.
    `note`: why its tags say that it is no frontal chest radiograph, "" if they do not. Times as in `StudyInstance`; `queue_s` and
    `decode_s` are the seconds from the last byte to the begin of decoding, and the decoding itself; `codec_s` is the part of `decode_s`
    that a compressed transfer syntax took.
    """

    item: str
    image: NDArray[np.uint8]
    modality: str = ""
    view: str = ""
    body_part: str = ""
    laterality: str = ""
    note: str = ""
    received_at: float = 0.0
    received_ns: int = 0
    queue_s: float = 0.0
    decode_s: float = 0.0
    codec_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a model said of a picture.

    `model` is the id name@hash. `probabilities` by label in the order of the card, `positive` the label that `decision` is about,
    `threshold` its operating point; `decision` is a label, or "" if the model abstained, and then `abstained` says why.
    `findings` are sentences for the report. `heat_map` is a PNG of 8-bit grey, 255 where the picture speaks most for the decision, to be
    stretched over the whole picture; `explained` is what it was made by. `timings` are seconds by step, `made_at` is Unix time in seconds.
    """

    item: str
    model: str
    probabilities: Mapping[str, float]
    positive: str
    threshold: float
    decision: str
    abstained: str = ""
    findings: tuple[str, ...] = ()
    heat_map: bytes | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    made_at: float = 0.0
    explained: str = ""


@dataclass(frozen=True, slots=True)
class StudyFailure:
    """Why an item came to nothing: `reason` is a stable code (`no-pixels`, `multi-frame` …), `detail` a sentence without patient data."""

    item: str
    reason: str
    detail: str
    failed_at: float


@dataclass(frozen=True, slots=True)
class Load:
    """How much a folder holds; `oldest_at` is Unix time in seconds, None where it is empty."""

    count: int
    size_bytes: int
    oldest_at: float | None


class SealedFolder:
    """Sealed pieces of one kind, one file for each item; a piece appears as a whole or not at all."""

    def __init__(self, path: Path, kind: str, vault: Vault) -> None:
        self.path = path
        self._kind = kind
        self._vault = vault
        self._spares = Spares(path)

    def write(self, item: str, header: Mapping[str, Any], body: bytes, *, at: float, durable: bool) -> None:
        """Replace or make. `at` (Unix s) decides its place in `items`; `durable`: it outlives a loss of power once this returns.

        Raises StudySpaceError, StudyError.
        """
        self.write_all({item: (header, body)}, at=at, durable=durable)

    def write_all(self, pieces: Mapping[str, tuple[Mapping[str, Any], bytes]], *, at: float, durable: bool) -> None:
        """The same with header and body of several items, of which some may be there where it raises."""
        try:
            for item, (header, body) in pieces.items():
                self._put(item, header, body, at, durable)
            if durable and pieces:
                self._spares.sync()
        except OSError as error:
            kind = StudySpaceError if error.errno in FULL else StudyError
            raise kind(f"{self.path}: {self._kind} {item} cannot be written: {error.strerror}") from error

    def _put(self, item: str, header: Mapping[str, Any], body: bytes, at: float, durable: bool) -> None:
        """Its name is not durable yet. Raises OSError."""
        path = self._of(item)
        part = self._spares.take()
        head = json.dumps(header).encode()
        sealed = self._vault.seal(b"".join((struct.pack("<I", len(head)), head, body)), f"{self._kind} {item}")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb") as file:
                file.write(sealed)
                file.truncate()
                os.utime(file.fileno(), (at, at))
                if durable:
                    os.fdatasync(file.fileno())
            os.replace(part, path)
        except OSError:
            with suppress(OSError):
                os.unlink(part)
            raise

    def read(self, item: str) -> tuple[dict[str, Any], bytes]:
        """Header and body. Raises UnknownStudyError, DamagedStudyError, StudyError."""
        path = self._of(item)
        try:
            with open(path, "rb") as file:
                plain = self._vault.unseal(file.read(), f"{self._kind} {item}")
        except FileNotFoundError:
            raise UnknownStudyError(f"there is no {self._kind} {item}") from None
        except OSError as error:
            kind = DamagedStudyError if error.errno == errno.EIO else StudyError
            raise kind(f"{path} cannot be read: {error.strerror}") from error
        except VaultKeyError as error:
            raise DamagedStudyError(f"{path}: {error}") from error
        (length,) = struct.unpack_from("<I", plain)
        header: dict[str, Any] = json.loads(plain[4 : 4 + length])
        return header, plain[4 + length :]

    def items(self) -> list[str]:
        """What is there, in the order of `at`."""
        return [item for _, item, _ in sorted(self._entries())]

    def load(self) -> Load:
        """How much is there."""
        found = list(self._entries())
        oldest = min(found)[0] / 1e9 if found else None
        return Load(len(found), sum(size for _, _, size in found), oldest)

    def holds(self, item: str) -> bool:
        """Whether there is one."""
        return os.path.exists(self._of(item))

    def written_at(self, item: str) -> float:
        """The `at` it was written with. Raises UnknownStudyError."""
        try:
            return os.stat(self._of(item)).st_mtime
        except FileNotFoundError:
            raise UnknownStudyError(f"there is no {self._kind} {item}") from None

    def move(self, item: str, to: SealedFolder) -> None:
        """To a folder of the same kind; nothing if it is not here."""
        with suppress(FileNotFoundError):
            os.replace(self._of(item), to._of(item))

    def remove(self, item: str) -> None:
        """Nothing if it is not there."""
        with suppress(FileNotFoundError):
            os.unlink(self._of(item))

    def retire(self, item: str) -> None:
        """As `remove`, but its file may be kept, and be written over by a later piece."""
        self._spares.give(self._of(item))

    def _entries(self) -> Iterator[tuple[int, str, int]]:
        """`at` in nanoseconds, name, bytes."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                if ITEM.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        yield status.st_mtime_ns, entry.name, status.st_size

    def _of(self, item: str) -> str:
        if not ITEM.fullmatch(item):
            raise UnknownStudyError(f"{item!r} names no item")
        return f"{self.path}/{item}"


class StudyFolders:
    """The folders below `<state_dir>/studies`. Several processes may use them at once.

    Raises StudyError if they cannot be made, or if the key is missing, open to others or no key; the first to come makes the key.
    """

    def __init__(self, state_dir: Path, key_file: Path | None = None) -> None:
        root = state_dir / "studies"
        names = ("inbox", "pictures", "shown", "results", "failed", "reports", "dead", "answers", "answered")
        try:
            if new := [root / name for name in names if not (root / name).is_dir()]:
                for folder in new:
                    folder.mkdir(parents=True, exist_ok=True)
                for folder in (root, state_dir):
                    sync_folder(folder)
            fresh = not any(ITEM.fullmatch(entry) for name in names for entry in os.listdir(root / name))
            key = load_key(key_file or root / "key", create=fresh, what="studies")
        except OSError as error:
            raise StudyError(f"{root} cannot be used: {error.strerror}") from error
        except VaultKeyError as error:
            raise StudyError(str(error)) from error
        vault = Vault(_derived(key, b"seal"))
        self._name_key, self._pixels_key = _derived(key, b"name"), _derived(key, b"pixels")
        self.inbox = SealedFolder(root / "inbox", "instance", vault)
        self.pictures = SealedFolder(root / "pictures", "picture", vault)
        self.shown = SealedFolder(root / "shown", "picture", vault)
        self.results = SealedFolder(root / "results", "result", vault)
        self.failed = SealedFolder(root / "failed", "instance", vault)
        self.reports = SealedFolder(root / "reports", "report", vault)
        self.dead = SealedFolder(root / "dead", "instance", vault)
        self.answers = SealedFolder(root / "answers", "answer", vault)
        self.answered = SealedFolder(root / "answered", "receipt", vault)

    def item(self, sop_instance_uid: str) -> str:
        """The name of an instance here: HMAC-SHA256 of its UID, 32 hexadecimal digits."""
        return hmac.new(self._name_key, sop_instance_uid.encode(), hashlib.sha256).hexdigest()[:32]

    def fingerprint(self, data: bytes) -> str:
        """A keyed hash that tells whether pixels are the same and nothing else of them: a tenth of the work of HMAC-SHA256, and as safe as
        long as it is shown to nobody."""
        return Poly1305.generate_tag(self._pixels_key, data).hex()

    def write_instance(self, instance: StudyInstance) -> None:
        """Durable once this returns. Raises StudySpaceError, StudyError."""
        header = {"received_at": instance.received_at, "received_ns": instance.received_ns}
        self.inbox.write(instance.item, header, instance.data, at=instance.received_at, durable=True)

    def instance(self, item: str, folder: SealedFolder | None = None) -> StudyInstance:
        """From the inbox, or from another folder of instances. Raises UnknownStudyError, StudyError."""
        header, data = (folder or self.inbox).read(item)
        return StudyInstance(item, data, header["received_at"], header["received_ns"])

    def write_picture(self, picture: StudyPicture) -> None:
        """For a task; made again from the inbox if a loss of power takes it. Raises StudySpaceError, StudyError."""
        header = {name: getattr(picture, name) for name in StudyPicture.__dataclass_fields__ if name != "image"}
        height, width = picture.image.shape
        header |= {"height": height, "width": width}
        self.pictures.write(picture.item, header, picture.image.tobytes(), at=picture.received_at, durable=False)

    def picture(self, item: str) -> StudyPicture:
        """One that waits or has been shown to a task; its image is read-only. Raises UnknownStudyError, StudyError."""
        import numpy as np

        try:
            header, body = self.pictures.read(item)
        except UnknownStudyError:
            header, body = self.shown.read(item)
        height, width = header.pop("height"), header.pop("width")
        return StudyPicture(image=np.frombuffer(body, np.uint8).reshape(height, width), **header)

    def picture_done(self, item: str) -> None:
        """The event of its result is committed."""
        self.pictures.move(item, self.shown)

    def report(self, name: str) -> StudyFailure | None:
        """A failure that waits to be told; None while its instance is still in the inbox. Raises UnknownStudyError, StudyError."""
        failure = StudyFailure(**self.reports.read(name)[0])
        return None if self.inbox.holds(failure.item) else failure

    def write_result(self, result: StudyResult) -> None:
        """Durable once this returns; the answer to the sender follows. Raises StudySpaceError, StudyError."""
        header = asdict(result) | {"heat_map": result.heat_map is not None}
        self.results.write(result.item, header, result.heat_map or b"", at=result.made_at, durable=True)

    def result(self, item: str) -> StudyResult:
        """Raises UnknownStudyError, StudyError."""
        header, body = self.results.read(item)
        return StudyResult(**header | {"heat_map": body if header["heat_map"] else None, "findings": tuple(header["findings"])})

    def fail(self, item: str, reason: str, detail: str) -> None:
        """Nothing more can be done with an item: its instance is kept in failed/ with the reason, and a report waits to be told, one for
        each time that the instance came. Raises StudySpaceError, StudyError."""
        came = next((folder.written_at(item) for folder in (self.inbox, self.failed) if folder.holds(item)), 0.0)
        failure = StudyFailure(item, reason, detail, time.time())
        self.reports.write(self.item(f"{item} {came}"), asdict(failure), b"", at=failure.failed_at, durable=True)
        self._give_up(failure, self.failed)

    def bury(self, item: str, reason: str, detail: str) -> None:
        """No destination takes its answer: its instance is kept in dead/ with the reason. Raises StudyError."""
        self._give_up(StudyFailure(item, reason, detail, time.time()), self.dead)

    def reopen(self, item: str) -> None:
        """It came again: what is dead waits in the inbox once more, and that it failed is forgotten."""
        self.dead.move(item, self.inbox)
        self.forget(item)

    def forget(self, item: str) -> None:
        """Delete what failed, or is dead."""
        for folder in (self.failed, self.dead):
            folder.remove(item)
            (folder.path / f"{item}.json").unlink(missing_ok=True)

    def failures(self, folder: SealedFolder | None = None) -> list[StudyFailure]:
        """Of failed/, or of dead/, the oldest first."""
        where = folder or self.failed
        found = []
        for path in where.path.glob("*.json"):
            with suppress(FileNotFoundError):
                found.append(_failure(path))
        return sorted(found, key=lambda failure: failure.failed_at)

    def _give_up(self, failure: StudyFailure, folder: SealedFolder) -> None:
        item = failure.item
        try:
            with replacing(folder.path / f"{item}.json", durable=False) as part:
                part.write_text(json.dumps(asdict(failure)), encoding="utf-8")
            self.inbox.move(item, folder)
        except OSError as error:
            raise StudyError(f"{folder.path}: the reason for {item} cannot be written: {error.strerror}") from error


def _derived(key: bytes, use: bytes) -> bytes:
    """A key of its own for each use (HKDF's expansion with one block, RFC 5869)."""
    return hmac.new(key, b"almena studies " + use + b"\x01", hashlib.sha256).digest()


def _failure(path: Path) -> StudyFailure:
    """What a file of failed/ or dead/ says; a loss of power may have taken that."""
    try:
        return StudyFailure(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return StudyFailure(path.stem, "unknown", "the reason was lost with the power", path.stat().st_mtime)
