"""The files of an identity. Each appears as a whole, mode 0600, so that a power cut leaves an identity that works.

`device.pem` holds key and certificate in one file, so that they can never be of two kinds.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.identity.errors import IdentityError
from agent.identity.keys import Key, Pair, key_from, key_pem, new_key, public_bytes
from engines.files import replacing

SERVICE_USER = "almena-uplink"
"""Who owns the identity where Almena is installed as a service."""


class IdentityFolder:
    """`device.pem` is in force; `next.pem` waits until the broker has accepted it; the `.key` files are for requests under way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca = path / "ca.pem"
        self.device = path / "device.pem"
        self.next = path / "next.pem"
        self.join_key = path / "join.key"
        self.renewal_key = path / "renewal.key"

    def pair(self) -> Pair:
        """Key and certificate in force. Raises IdentityError."""
        try:
            return Pair.of(self.device.read_bytes())
        except FileNotFoundError:
            raise IdentityError(f"{self.device} is missing: this device has no identity; run `almena join URL TOKEN`") from None
        except OSError as error:
            raise IdentityError(f"{self.device} cannot be read ({error.strerror}): let the user of the agent own it, mode 600") from error
        except IdentityError as error:
            raise IdentityError(f"{self.device}: {error}; run `almena join URL TOKEN` with a new token") from error

    def renewed(self) -> Pair | None:
        """What waits to be accepted. What is damaged or has expired is deleted, and the renewal done once more. Raises IdentityError."""
        with self._told(self.next):
            try:
                pair = Pair.of(self.next.read_bytes())
                if time.time() < pair.ends:
                    return pair
            except FileNotFoundError:
                return None
            except IdentityError:
                pass
            self.next.unlink()
            return None

    def key(self, path: Path, purpose: str = "") -> Key:
        """The key of a request under way, so that a request that was cut off is repeated with the same one; made where there is none.

        `purpose` is what the request is made with: another token never meets the key of an earlier one, which may be revoked by now.
        Raises IdentityError if it cannot be written: then nothing is asked for.
        """
        mark = f"for {hashlib.sha256(purpose.encode()).hexdigest()}\n".encode() if purpose else b""
        try:
            kept = path.read_bytes()
            key = key_from(kept)
            if kept.endswith(mark) and (path != self.renewal_key or public_bytes(key) != public_bytes(self.pair().key)):
                return key
        except (OSError, IdentityError):
            pass
        key = new_key()
        self.write(path, key_pem(key) + mark)
        return key

    def write(self, path: Path, content: bytes) -> None:
        """A file of the folder, durable when this returns. Raises IdentityError: the disk is full or read-only, or the folder another's.

        Root may do this in a folder that the service's user owns, who can put a link in its place: none is followed.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with (
            self._told(path),
            self._held() as folder,
            replacing(folder / path.name) as part,
            open(os.open(part, flags, 0o600), "wb") as file,
        ):
            file.write(content)

    def promote(self) -> None:
        """What waited is in force from now on, and no join goes on behind it."""
        with self._told(self.device):
            self.join_key.unlink(missing_ok=True)
            os.replace(self.next, self.device)
            self.renewal_key.unlink(missing_ok=True)

    def joined(self, pair: Pair, ca: bytes) -> None:
        """A new identity takes the place of whatever was there. What was renewed of the old one goes first: it must not follow the new.

        The key of the request stays until `settled`: whatever goes wrong from here on, the same request gets the same certificate.
        """
        self._drop(self.next, self.renewal_key)
        self.write(self.ca, ca)
        self.write(self.device, pair.pem)

    def settled(self) -> None:
        """The request is not made again. Raises IdentityError."""
        self._drop(self.join_key)

    def hand_over(self) -> None:
        """Where root did it for the service, the service's user owns the folder and the files of an identity in it, and nothing else.

        That user can put links there: none is followed. Raises IdentityError for what is not a plain file.
        """
        if os.geteuid() != 0:
            return
        try:
            user = pwd.getpwnam(SERVICE_USER)
        except KeyError:
            return
        with self._told(self.path), _opened(self.path, os.O_DIRECTORY) as folder:
            for path in (self.ca, self.device, self.next, self.join_key, self.renewal_key):
                with self._told(path), suppress(FileNotFoundError), _opened(Path(path.name), os.O_NONBLOCK, folder) as file:
                    found = os.fstat(file)
                    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                        raise OSError(errno.ELOOP, "not a file of its own")
                    os.fchown(file, user.pw_uid, user.pw_gid)
            os.fchown(folder, user.pw_uid, user.pw_gid)

    def _drop(self, *paths: Path) -> None:
        with self._told(self.path), self._held() as folder:
            for path in paths:
                (folder / path.name).unlink(missing_ok=True)

    @contextmanager
    def _held(self) -> Iterator[Path]:
        """The folder, made where there is none, by a path that nobody can turn elsewhere meanwhile (proc(5))."""
        if made := not os.path.lexists(self.path):
            self.path.mkdir(parents=True, mode=0o700)
        with _opened(self.path, os.O_DIRECTORY) as number:
            if made:
                os.fchmod(number, 0o700)
            yield Path(f"/proc/self/fd/{number}")

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = {
                errno.ENOSPC: "make room on the disk",
                errno.EDQUOT: "make room on the disk",
                errno.EROFS: "mount the disk for writing, or set state_dir to another",
                errno.ELOOP: "no link is followed here: delete it",
                errno.ENOTDIR: "let it be a folder and no link",
            }.get(error.errno or 0, "run as the user who owns the folder")
            raise IdentityError(f"{path} cannot be written ({error.strerror}): {advice}, and run the same again") from error


@contextmanager
def _opened(path: Path, flags: int, folder: int | None = None) -> Iterator[int]:
    """To be read, without following a link."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    try:
        yield number
    finally:
        os.close(number)
