"""Enrolled identities: who may be recognised, with their consent, until they expire or are erased."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.datatypes import MAX_NAME
from agent.errors import UnknownError
from agent.settings import GallerySettings
from agent.vault import VaultKeyError, load_key
from agent.vision.clusters import Clusters
from agent.vision.exchange import Exchange
from agent.vision.gallery_store import GalleryError, GalleryKeyError, Store
from agent.vision.recognition import Candidates, OperatingPoint, Vector, operating_point
from engines.base import EngineError
from engines.card import card

LATEST_EXPIRY = 253_370_764_800.0
"""The first second of 9999: later times have no date."""

log = logging.getLogger(__name__)

REFRESH_S = 1.0
RECEIPT = "id, identity, reason, erased_at, pictures, templates, clusters"
"""Columns, in the order of `Receipt`."""
ADD = "INSERT INTO identities (id, record, created_at, expires_at, origin, revision) VALUES (?, ?, ?, ?, ?, ?)"
LEFT = "left"
"""The reason of an erasure that is no obstacle to having the identity again."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of one enrolled picture: JPEG bytes of the face's surroundings (None where only the template is known), its template."""

    image: bytes | None
    vector: Vector


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled person. Times are Unix seconds. `templates` counts those of the embedder in use;
    `needs_pictures`: there is none, because the embedder changed and no picture was kept: add pictures.
    `origin`: the device that shares it with this one, empty for those enrolled here; `revision` counts changes."""

    id: str
    name: str
    consent: str
    created_at: float
    expires_at: float | None
    pictures: int
    templates: int
    needs_pictures: bool
    origin: str = ""
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of an erasure, without personal data: `identity` is a random id."""

    id: str
    identity: str
    reason: str
    erased_at: float
    pictures: int
    templates: int
    clusters: int


class UnknownIdentityError(GalleryError, UnknownError):
    """There is no identity of that id or name."""


class Gallery:
    """Identities and clusters for one embedder.

    Several threads may use it; other processes may change the file, which `refresh` notices. `candidates` is replaced as a whole, so
    that reading it needs no lock. What an erasure means outside the gallery is `agent.vision.erasure`'s.
    """

    def __init__(self, store: Store, settings: GallerySettings, model: str | None, point: OperatingPoint | None) -> None:
        self.model = model
        self.point = point
        self._store = store
        self._foreign = store.foreign_version()
        self._version = 0
        self._next_refresh = 0.0
        self._expired: list[str] = []
        self.clusters = Clusters(store, settings.clusters, model, point.cluster if point else 0.0)
        self.candidates = Candidates.none()
        self.exchange = Exchange(self, store)
        self._load()

    @classmethod
    def open(cls, directory: Path, settings: GallerySettings, model: str | None = None, point: OperatingPoint | None = None) -> Gallery:
        """Open or create. `model` is the embedder's id and `point` its operating point; without them nothing is matched.

        Raises GalleryKeyError for a missing, open or foreign key, GalleryError for a file that cannot be read.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "gallery.sqlite"
        key_file = settings.key_file or directory / "key"
        try:
            key = load_key(key_file, create=not path.exists(), what="gallery")
        except VaultKeyError as error:
            raise GalleryKeyError(str(error)) from error
        return cls(Store(path, key), settings, model, point)

    def add(self, name: str, pictures: Sequence[Picture], consent: str = "", expires_at: float | None = None) -> Identity:
        """A new identity. Raises GalleryError if the name is taken or empty, or the expiry is not to come."""
        name = _checked(name)
        _require_future(expires_at)
        identity = f"p-{secrets.token_hex(6)}"
        with self._store.lock, self._store.write():
            self._require_free(name)
            record = self._store.seal_json({"name": name, "consent": consent}, f"identity {identity}")
            self._store.execute(ADD, identity, record, time.time(), expires_at, "", 1)
            self.insert(identity, ((picture.image, picture.vector) for picture in pictures))
        return self._changed(identity, pictures)

    def add_pictures(self, identity: str, pictures: Sequence[Picture]) -> Identity:
        """More pictures of an identity. Raises UnknownIdentityError."""
        with self._store.lock, self._store.write():
            _require_own(self.get(identity))
            self.insert(identity, ((picture.image, picture.vector) for picture in pictures))
            self._store.execute("UPDATE identities SET revision = revision + 1 WHERE id = ?", identity)
        return self._changed(identity, pictures)

    def name_cluster(self, cluster: str, name: str, consent: str = "", expires_at: float | None = None) -> Identity:
        """Make an identity of a cluster; it keeps the cluster's templates. Raises UnknownIdentityError."""
        known = self.clusters.get(cluster)
        if known is None:
            raise UnknownIdentityError(f"there is no cluster {cluster!r}; `almena identity clusters` lists them")
        if known.model != self.model:
            raise GalleryError(f"{cluster} belongs to the embedder {known.model}, which is not in use")
        identity = self.add(name, [Picture(None, vector) for vector in known.vectors], consent, expires_at)
        self.clusters.erase(cluster)
        return identity

    def change(self, identity: str, **changes: Any) -> Identity:
        """Other values for any of `name`, `consent` and `expires_at`. Raises UnknownIdentityError, GalleryError for a bad or taken name."""
        _require_future(changes.get("expires_at"))
        with self._store.lock, self._store.write():
            known = replace(_require_own(self.get(identity)), **changes)
            if "name" in changes:
                known = replace(known, name=_checked(known.name))
                self._require_free(known.name, but=identity)
            record = self._store.seal_json({"name": known.name, "consent": known.consent}, f"identity {identity}")
            query = "UPDATE identities SET record = ?, expires_at = ?, revision = revision + 1 WHERE id = ?"
            self._store.execute(query, record, known.expires_at, identity)
        return self._changed(identity, ())

    def identities(self, now: float | None = None) -> list[Identity]:
        """All that have not expired, by name."""
        now = time.time() if now is None else now
        query = """SELECT id, record, created_at, expires_at, (SELECT count(*) FROM pictures WHERE identity = i.id),
            (SELECT count(*) FROM pictures p JOIN templates t ON t.picture = p.id WHERE p.identity = i.id AND t.model IS ?),
            origin, revision FROM identities i WHERE expires_at IS NULL OR expires_at > ?"""
        found = []
        for id_, sealed, created, expires, pictures, templates, *shared in self._store.rows(query, self.model, now):
            record = self._store.unseal_json(sealed, f"identity {id_}")
            needs = self.model is not None and templates == 0
            until = None if expires is None else min(expires, LATEST_EXPIRY)  # earlier versions took any number
            found.append(Identity(id_, record["name"], record["consent"], created, until, pictures, templates, needs, *shared))
        return sorted(found, key=lambda identity: identity.name.casefold())

    def get(self, identity: str) -> Identity:
        """By id. Raises UnknownIdentityError."""
        for known in self.identities():
            if known.id == identity:
                return known
        raise UnknownIdentityError(f"there is no identity {identity!r}; `almena identity list` shows all")

    def find(self, identity: str) -> Identity:
        """By id or name. Raises UnknownIdentityError."""
        for known in self.identities():
            if identity == known.id or identity.casefold() == known.name.casefold():
                return known
        raise UnknownIdentityError(f"there is no identity {identity!r}; `almena identity list` shows all")

    def pictures(self, identity: str) -> list[bytes]:
        """The enrolled pictures, JPEG."""
        rows = self._store.rows("SELECT id, picture FROM pictures WHERE identity = ? AND picture IS NOT NULL ORDER BY added_at", identity)
        return [self._store.unseal(sealed, f"picture {id_}") for id_, sealed in rows]

    def without_template(self) -> list[tuple[str, bytes]]:
        """Ids and JPEG bytes of pictures that the embedder in use has not seen."""
        query = """SELECT id, picture FROM pictures WHERE picture IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM templates WHERE picture = pictures.id AND model = ?)"""
        return [(id_, self._store.unseal(sealed, f"picture {id_}")) for id_, sealed in self._store.rows(query, self.model)]

    def add_template(self, picture: str, vector: Vector) -> None:
        """The template of a kept picture by the embedder in use; nothing if the picture was erased meanwhile."""
        new: list[Vector] = []
        with self._store.write():
            if self._store.rows("SELECT 1 FROM pictures WHERE id = ?", picture):
                self._template(picture, vector)
                new.append(vector)
        self.reload(new)

    def holds(self, identity: str) -> bool:
        """Whether that id is of an identity, also of one that has expired, or of one that was erased."""
        query = "SELECT 1 FROM identities WHERE id = ?1 UNION SELECT 1 FROM receipts WHERE identity = ?1"
        return bool(self._store.rows(query, identity))

    def erase(self, identity: str, reason: str = "requested") -> Receipt:
        """Erase records, pictures, templates and matching clusters. Once more gives the same receipt. Raises UnknownIdentityError.

        `scrub` removes the last bytes.
        """
        with self._store.lock:
            if not self._store.rows("SELECT 1 FROM identities WHERE id = ?", identity):
                if self._receipt(identity).reason == LEFT != reason:
                    self.exchange.renounce(identity, reason)
                return self._receipt(identity)
            self.clusters.reload()
            clusters = self._erase_clusters(identity)
            with self._store.write():
                of_identity = "(SELECT id FROM pictures WHERE identity = ?)"
                templates = self._store.execute(f"DELETE FROM templates WHERE picture IN {of_identity}", identity)
                pictures = self._store.execute("DELETE FROM pictures WHERE identity = ?", identity)
                self._store.execute("DELETE FROM identities WHERE id = ?", identity)
                receipt = Receipt(f"e-{secrets.token_hex(6)}", identity, reason, time.time(), pictures, templates, clusters)
                self._store.execute(f"INSERT INTO receipts ({RECEIPT}) VALUES (?, ?, ?, ?, ?, ?, ?)", *asdict(receipt).values())
        self._load()
        return receipt

    def scrub(self) -> None:
        """Leave no byte of what was erased in the files. Raises GalleryError while another process keeps them busy."""
        self._store.scrub()

    def receipts(self, *, unfollowed: bool = False) -> list[Receipt]:
        """Proofs of erasures, the newest last; `unfollowed`: those that `follow` was not called for."""
        where = "WHERE followed = 0 " if unfollowed else ""
        return [Receipt(*row) for row in self._store.rows(f"SELECT {RECEIPT} FROM receipts {where}ORDER BY erased_at")]

    def follow(self, receipt: str) -> None:
        """Everything outside the gallery has followed the erasure."""
        with self._store.write():
            self._store.execute("UPDATE receipts SET followed = 1 WHERE id = ?", receipt)

    def refresh(self, now: float | None = None) -> bool:
        """Take over what other processes changed, and hide what has expired. Looks at most once a second, so call it often; whether it has
        looked. Raises GalleryError, also the next time, until all is taken over."""
        tick = time.monotonic()
        if tick < self._next_refresh:
            return False
        self._next_refresh = tick + REFRESH_S
        foreign = self._store.foreign_version()
        if foreign != self._foreign:
            self.clusters.reload()
            self._load(now)
            self._foreign = foreign
        elif self.over(now) != self._expired:
            self._load(now)
        return True

    def over(self, now: float | None = None) -> list[str]:
        """Ids of identities whose time is over."""
        now = time.time() if now is None else now
        return [row[0] for row in self._store.rows("SELECT id FROM identities WHERE expires_at <= ? ORDER BY id", now)]

    def expire(self, now: float | None = None) -> list[Receipt]:
        """Erase identities whose time is over. Only for a clock that can be trusted: it cannot be undone."""
        receipts = [self.erase(identity, "expired") for identity in self.over(now)]
        for receipt in receipts:
            log.info("identity %s expired and was erased", receipt.identity)
        return receipts

    def close(self) -> None:
        """Close the file. Calling it twice does no harm."""
        self._store.close()

    def nearest_other(self, vector: Vector, identity: str | None) -> tuple[str, float] | None:
        """Name and distance of the nearest identity but `identity`; None without one."""
        candidates = self.candidates
        others = [index for index, id_ in enumerate(candidates.ids) if id_ != identity]
        rows = np.isin(candidates.owners, others)
        if not rows.any():
            return None
        distances = np.linalg.norm(candidates.matrix[rows] - vector, axis=1)
        best = int(np.argmin(distances))
        return candidates.names[candidates.owners[rows][best]], float(distances[best])

    def insert(self, identity: str, pictures: Iterable[tuple[bytes | None, Vector | None]]) -> None:
        """Images and templates, within a transaction of the caller's; where there is no template, `without_template` tells."""
        for image, vector in pictures:
            id_ = secrets.token_hex(8)
            sealed = None if image is None else self._store.seal(image, f"picture {id_}")
            self._store.execute("INSERT INTO pictures VALUES (?, ?, ?, ?)", id_, identity, sealed, time.time())
            if vector is not None:
                self._template(id_, vector)

    def _template(self, picture: str, vector: Vector) -> None:
        sealed = self._store.seal_vectors(vector[None], f"template {picture} {self.model}")
        self._store.execute("INSERT OR REPLACE INTO templates VALUES (?, ?, ?)", picture, self.model, sealed)

    def _changed(self, identity: str, pictures: Sequence[Picture]) -> Identity:
        self.reload(picture.vector for picture in pictures)
        return self.get(identity)

    def reload(self, new: Iterable[Vector] = ()) -> None:
        """Match with what is in the file now; clusters of unknown persons near the `new` templates are no longer needed."""
        if (vectors := list(new)) and self.model and self.point:
            self.clusters.erase_near(np.stack(vectors), self.model, self.point.cluster)
        self._load()

    def _require_free(self, name: str, but: str | None = None) -> None:
        if any(known.name.casefold() == name.casefold() and known.id != but for known in self.identities()):
            raise GalleryError(f"the name {name!r} is taken; add pictures to that identity, or choose another name")

    def _erase_clusters(self, identity: str) -> int:
        """Of every embedder that has seen the identity's pictures, in use or not."""
        query = "SELECT DISTINCT t.model FROM templates t JOIN pictures p ON p.id = t.picture WHERE p.identity = ?"
        erased = 0
        for (model,) in self._store.rows(query, identity):
            vectors = [vector for _, vector in self._templates(model, "AND p.identity = ?", identity)]
            erased += self.clusters.erase_near(np.stack(vectors), model, self._radius(model))
        return erased

    def _radius(self, model: str) -> float:
        """Within which templates of `model` show one person; without limit where its card is gone."""
        if model == self.model and self.point:
            return self.point.cluster
        try:
            return operating_point(card(model.partition("@")[0])).cluster
        except EngineError:
            return math.inf

    def _templates(self, model: str | None, condition: str = "", *values: Any) -> list[tuple[str, NDArray[np.float32]]]:
        query = f"""SELECT p.identity, t.picture, t.vector FROM templates t JOIN pictures p ON p.id = t.picture
            WHERE t.model = ? {condition} ORDER BY p.identity"""
        rows = self._store.rows(query, model, *values)
        return [(owner, self._store.unseal_vectors(sealed, f"template {picture} {model}")[0]) for owner, picture, sealed in rows]

    def _receipt(self, identity: str) -> Receipt:
        for receipt in reversed(self.receipts()):
            if receipt.identity == identity:
                return receipt
        raise UnknownIdentityError(f"there is no identity {identity!r}; `almena identity list` shows all")

    def _load(self, now: float | None = None) -> None:
        """Build the view for matching anew."""
        with self._store.lock:
            self._version += 1
            self._expired = self.over(now)
            known = {identity.id: identity for identity in self.identities(now)}
            templates = [(owner, vector) for owner, vector in self._templates(self.model) if owner in known]
            ids = sorted({owner for owner, _ in templates})
            if not ids:
                self.candidates = Candidates.none(self._version)
                return
            owners = np.array([ids.index(owner) for owner, _ in templates], np.intp)
            matrix = np.stack([vector for _, vector in templates])
            self.candidates = Candidates(self._version, tuple(ids), tuple(known[id_].name for id_ in ids), owners, matrix)


def _require_future(expires_at: float | None) -> None:
    if expires_at is not None and not time.time() < expires_at < LATEST_EXPIRY:
        raise GalleryError("the expiry must be in the future, in seconds since 1970, and before the year 9999; or leave it out")


def _require_own(identity: Identity) -> Identity:
    if identity.origin:
        raise GalleryError(f"this person was enrolled on {identity.origin}, which shares it: make changes there, or erase it here")
    return identity


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise GalleryError(f"a name must have 1 to {MAX_NAME} printable characters")
    return name
