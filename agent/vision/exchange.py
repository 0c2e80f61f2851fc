"""The side of a gallery by which identities come from other devices and go to them."""

from __future__ import annotations

import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from agent.sharing import sealing
from agent.sharing.protocol import MAX_BOX, Label, Person
from agent.vision.gallery_store import GalleryError, Store
from agent.vision.recognition import Vector

if TYPE_CHECKING:
    from agent.vision.gallery import Gallery

IMAGES_BYTES = 2**20
"""Pictures of one identity that travel; of further ones the templates do."""
MOST_PICTURES = 256
ADD = """INSERT INTO identities (id, record, created_at, expires_at, origin, revision) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET record = excluded.record, expires_at = excluded.expires_at, revision = excluded.revision"""
RECEIPT = "INSERT INTO receipts (id, identity, reason, erased_at, pictures, templates, clusters) VALUES (?, ?, ?, ?, 0, 0, 0)"
Kept = tuple[bytes | None, Vector | None]
"""An image, where it was kept, and its template by the embedder in use, where there is one."""


class Exchange:
    """Belongs to a gallery. The private key is sealed in its file and is never given away."""

    def __init__(self, gallery: Gallery, store: Store) -> None:
        self._gallery = gallery
        self._store = store

    @property
    def public_key(self) -> bytes:
        """What others seal with for this device."""
        return sealing.public_key(self._key())

    @property
    def held(self) -> list[str]:
        """Ids of those that came from other devices."""
        return [row[0] for row in self._store.rows("SELECT id FROM identities WHERE origin != ''")]

    def seal(self, label: Label, public: bytes) -> bytes:
        """The identity of the label, sealed for the owner of `public`. Raises UnknownIdentityError, GalleryError for another revision
        than the newest and for one that came from elsewhere, SealError."""
        with self._store.lock:
            known = self._gallery.get(label.id)
            if known.origin or known.revision != label.revision:
                raise GalleryError(f"{label.id} is not here in this revision")
            kept = self._kept(label.id)
        images, vectors = _bounded(kept)
        person = Person(
            name=known.name, consent=known.consent, expires_at=known.expires_at, created_at=known.created_at,
            model=self._gallery.model or "", images=images, vectors=vectors,
        )  # fmt: skip
        return sealing.seal(person.model_dump_json().encode(), public, label.text)

    def take(self, label: Label, box: bytes) -> None:
        """Open a box whose sender is known, and keep who is in it; one that is held in this revision or a newer one stays as it is.

        Raises SealError; GalleryError, whose message names nobody: erased here before, over, a name that somebody else has, or nothing
        that the embedder in use could compare.
        """
        if len(box) > MAX_BOX:
            raise GalleryError("the box is too large")
        try:
            person = Person.model_validate_json(sealing.unseal(box, self._key(), label.text))
            kept = self._usable(person)
        except (ValidationError, ValueError) as error:
            raise GalleryError("what is in the box cannot be read by this version") from error
        with self._store.lock:
            self._require_wanted(label, person)
            self._write(label, person, kept)
            self._gallery.reload(vector for _, vector in kept if vector is not None)

    def renounce(self, identity: str, reason: str) -> None:
        """Note that an identity which is not here is erased: a box that holds it is refused from now on."""
        with self._store.write():
            self._store.execute(RECEIPT, f"e-{secrets.token_hex(6)}", identity, reason, time.time())

    def _key(self) -> bytes:
        return self._store.secret("sharing key", sealing.new_key)

    def _kept(self, identity: str) -> list[Kept]:
        query = """SELECT p.id, p.picture, t.vector FROM pictures p LEFT JOIN templates t ON t.picture = p.id AND t.model = ?
            WHERE p.identity = ? ORDER BY p.added_at DESC LIMIT ?"""
        found = []
        for id_, image, vector in self._store.rows(query, self._gallery.model, identity, MOST_PICTURES):
            place = f"template {id_} {self._gallery.model}"
            found.append(
                (
                    None if image is None else self._store.unseal(image, f"picture {id_}"),
                    None if vector is None else self._store.unseal_vectors(vector, place)[0],
                )
            )
        return found

    def _usable(self, person: Person) -> list[Kept]:
        """What this device can compare: templates by its own embedder, and pictures. Raises GalleryError, ValueError."""
        own = person.model == self._gallery.model
        matrix = self._gallery.candidates.matrix
        widths = {matrix.shape[1]} if len(matrix) else set()
        kept: list[Kept] = []
        for image, vector in zip(person.images, person.vectors, strict=True):
            found = np.frombuffer(b64decode(vector), "<f4").astype(np.float32) if vector and own else None
            if found is not None and not (0 < found.size <= 4096 and np.isfinite(found).all() and np.abs(found).max() < 1e3):
                raise ValueError("a template is none")
            if image or found is not None:
                kept.append((b64decode(image) if image else None, found))
                widths |= set() if found is None else {found.size}
        if len(widths) > 1:
            raise ValueError("templates of one embedder are of one length")
        if not kept:
            raise GalleryError("there is no picture in the box, and its templates are by another embedder: add pictures where it is from")
        return kept

    def _require_wanted(self, label: Label, person: Person) -> None:
        if self._store.rows("SELECT 1 FROM receipts WHERE identity = ? AND reason != 'left'", label.id):
            raise GalleryError("it was erased here")
        if person.expires_at is not None and person.expires_at <= time.time():
            raise GalleryError("its time is over")
        known = {one.id: one for one in self._gallery.identities()}
        if label.id in known and known[label.id].origin != label.origin:
            raise GalleryError("an identity of this id came from elsewhere")
        if any(one.name.casefold() == person.name.casefold() and one.id != label.id for one in known.values()):
            raise GalleryError("somebody of that name is enrolled here already: rename or erase one of the two")

    def _write(self, label: Label, person: Person, kept: Sequence[Kept]) -> None:
        with self._store.write():
            held = self._store.rows("SELECT revision FROM identities WHERE id = ?", label.id)
            if held and held[0][0] >= label.revision:
                return
            record = self._store.seal_json({"name": person.name, "consent": person.consent}, f"identity {label.id}")
            self._store.execute("DELETE FROM templates WHERE picture IN (SELECT id FROM pictures WHERE identity = ?)", label.id)
            self._store.execute("DELETE FROM pictures WHERE identity = ?", label.id)
            self._store.execute(ADD, label.id, record, person.created_at, person.expires_at, label.origin, label.revision)
            self._gallery.insert(label.id, kept)


def _bounded(kept: Sequence[Kept]) -> tuple[list[str | None], list[str | None]]:
    images: list[str | None] = []
    vectors: list[str | None] = []
    room = IMAGES_BYTES
    for image, vector in kept:
        room -= len(image or b"")
        images.append(b64encode(image).decode() if image and room >= 0 else None)
        vectors.append(None if vector is None else b64encode(vector.astype("<f4").tobytes()).decode())
    return images, vectors
