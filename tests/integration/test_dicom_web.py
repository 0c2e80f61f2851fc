"""STOW-RS and the watched folder."""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.dicom import stow
from agent.settings import MEBIBYTE
from tests.fakes.certificates import Authority
from tests.fakes.radiographs import instance, phantom, receiving
from tests.waiting import wait_until

TOKEN = "a token of at least sixteen"


def body(*files: bytes, boundary: str = "part") -> bytes:
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + data + b"\r\n" for data in files) + f"--{boundary}--\r\n".encode()


def post(port: int, content: bytes, token: str = TOKEN, verify: Any = True, boundary: str = "part") -> httpx.Response:
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
    scheme = "http" if verify is True else "https"
    with httpx.Client(verify=verify, trust_env=False) as client:
        return client.post(f"{scheme}://127.0.0.1:{port}/dicom-web/studies", content=content, headers=headers, timeout=30)


def test_what_stow_says_is_stored_is(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with receiving(tmp_path, web={"port": 0, "token_file": tmp_path / "token"}) as running:
        assert running.web
        port = running.web.port
        assert post(port, body(instance(1)), token="another").status_code == 401
        stored = post(port, body(instance(1), instance(2)))
        assert stored.status_code == 200
        assert [one["00081155"]["Value"][0][-3:] for one in stored.json()["00081199"]["Value"]] == ["3.1", "3.2"]
        assert len(running.folders.inbox.items()) == 2
        mixed = post(port, body(instance(3), b"no DICOM file", instance(1, phantom(seed=9).astype("u2"))))
        assert mixed.status_code == 202
        assert [one["00081197"]["Value"][0] for one in mixed.json()["00081198"]["Value"]] == [0xC000, 0xC101]
        assert [one["00081155"]["Value"][0][-3:] for one in mixed.json()["00081198"]["Value"][1:]] == ["3.1"]
        assert post(port, body(b"no DICOM file")).status_code == 409
        long = "-".join(["0123456789abcdef" * 2 + "0123"] * 2)
        assert (len(long), post(port, body(instance(2), boundary=long), boundary=long).status_code) == (73, 200), "as Orthanc's are"
        cut = post(port, body(instance(4))[:-20])
        assert (cut.status_code, "closing boundary" in cut.json()["detail"]) == (400, True)
        assert post(port, body()).status_code == 400
        assert len(running.folders.inbox.items()) == 3


def test_senders_that_stop_in_the_middle_hold_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: almena\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: %d\r\n\r\n"
    with receiving(tmp_path, web={"port": 0, "token_file": tmp_path / "token"}, max_instance_bytes=MEBIBYTE) as running:
        assert running.web
        with ExitStack() as stopped:
            for _ in range(20):
                sender = stopped.enter_context(socket.create_connection(("127.0.0.1", running.web.port), 30.0))
                sender.sendall((head % 100_000).encode() + bytes(50_000))
            assert post(running.web.port, body(instance(1))).status_code == 200
            sender.sendall(bytes(50_000))
            assert sender.recv(4096).startswith(b"HTTP/1.1 400 ")
            with socket.create_connection(("127.0.0.1", running.web.port), 30.0) as large:
                large.sendall((head % (2 * MEBIBYTE + 1)).encode())
                assert large.recv(4096).startswith(b"HTTP/1.1 413 ")
        wait_until(lambda: running.web and not running.web._in_hand, 30, "the room of those that left")


def test_who_stops_in_the_middle_of_a_large_body_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "IDLE_S", 1.0)
    (tmp_path / "token").write_text(TOKEN)
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: almena\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: %d\r\n\r\n"
    with receiving(tmp_path, web={"port": 0, "token_file": tmp_path / "token"}, max_instance_bytes=MEBIBYTE) as running, ExitStack() as two:
        assert running.web
        stopped = [two.enter_context(socket.create_connection(("127.0.0.1", running.web.port), 30.0)) for _ in range(2)]
        for sender in stopped:
            sender.sendall((head % (2 * MEBIBYTE)).encode() + bytes(1000))
        wait_until(lambda: running.web and running.web._in_hand == 4 * MEBIBYTE, 10, "the room to be taken")
        assert post(running.web.port, body(instance(1))).status_code == 200
        assert all(sender.recv(4096).startswith(b"HTTP/1.1 408 ") for sender in stopped)


def test_who_sends_a_body_in_trickles_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "IDLE_S", 1.0)
    (tmp_path / "token").write_text(TOKEN)
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: almena\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {MEBIBYTE}\r\n\r\n"
    with receiving(tmp_path, web={"port": 0, "token_file": tmp_path / "token"}, max_instance_bytes=MEBIBYTE) as running:
        assert running.web
        with socket.create_connection(("127.0.0.1", running.web.port), 30.0) as sender:
            sender.sendall(head.encode())
            began = time.monotonic()
            while not select.select([sender], [], [], 0.2)[0]:
                assert time.monotonic() - began < 20, "it may go on for ever"
                sender.sendall(bytes(100))
            assert sender.recv(4096).startswith(b"HTTP/1.1 408 ")
        wait_until(lambda: running.web and not running.web._in_hand, 30, "its room")


def test_a_client_certificate_is_as_good_as_a_token(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server, client = authority.server(), authority.client("modality")
    tls = {"cert_file": server.cert, "key_file": server.key, "client_ca_file": authority.cert}
    with receiving(tmp_path, web={"port": 0, "tls": tls}) as running:
        assert running.web
        context = ssl.create_default_context(cafile=str(authority.cert))
        try:
            refused = post(running.web.port, body(instance(1)), verify=context).status_code
        except httpx.HTTPError:
            refused = 0
        assert refused == 0
        context.load_cert_chain(client.cert, client.key)
        assert post(running.web.port, body(instance(1)), verify=context).status_code == 200


def test_a_file_that_cannot_be_read_holds_no_other_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "Doe.dcm").write_bytes(instance(1))
    (folder / "b.dcm").write_bytes(instance(2))
    os.utime(folder / "Doe.dcm", (1, 1))
    read = Path.read_bytes

    def denied(path: Path) -> bytes:  # to root nothing is
        if path.name == "Doe.dcm":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with receiving(tmp_path, folder={"path": folder, "period_s": 0.1, "settle_s": 0.1}) as running:
        wait_until(lambda: not (folder / "b.dcm").exists(), 30, "the other file")
        wait_until(lambda: "a file of" in caplog.text, 30, "a word about it")
        assert running.folder is not None
        assert running.folder.trouble == ""
    assert (folder / "Doe.dcm").exists()
    assert "Doe" not in caplog.text
    assert caplog.text.count("cannot be read") == 1


def test_a_writer_that_pauses_loses_nothing(tmp_path: Path) -> None:
    """In the file's header, in the data set, in the pixel data."""
    folder, whole = tmp_path / "in", instance(1)
    folder.mkdir()
    ends = {"empty": 0, "preamble": 100, "meta": 200, "data": len(whole) // 50, "pixels": len(whole) // 2}
    for name, end in ends.items():
        (folder / f"{name}.dcm").write_bytes(whole[:end])
    late = instance(2)
    (folder / "late.dcm").write_bytes(late[: len(late) // 2])
    os.utime(folder / "late.dcm", (1, 1))
    with receiving(tmp_path, folder={"path": folder, "settle_s": 0, "period_s": 0.05}) as running:
        reason = folder / "failed" / "late.dcm.reason.txt"
        wait_until(reason.exists, 30, "the one that nobody goes on with")
        assert "ends within" in reason.read_text()
        assert (folder / "failed" / "late.dcm").stat().st_size == len(late) // 2
        time.sleep(0.5)
        assert {path.stem for path in folder.glob("*.dcm")} == set(ends)
        for name, end in ends.items():
            with (folder / f"{name}.dcm").open("ab") as file:
                file.write(whole[end:])
        wait_until(lambda: not list(folder.glob("*.dcm")), 30, "all to be taken")
        assert running.folders.instance(running.folders.inbox.items()[0]).data == whole
    assert {path.name for path in (folder / "failed").iterdir()} == {"late.dcm", "late.dcm.reason.txt"}


def test_a_watched_folder_is_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{number}.dcm").write_bytes(instance(number))
    (folder / "bad.dcm").write_bytes(b"no DICOM file" * 10)
    (folder / "notes.txt").write_text("not mine")
    with receiving(tmp_path, folder={"path": folder, "settle_s": 0, "period_s": 0.05}) as running:
        wait_until(lambda: len(running.folders.pictures.items()) == 2, 30, "two pictures")
        wait_until(lambda: (folder / "failed" / "bad.dcm.reason.txt").exists(), 30, "the reason")
    assert sorted(path.name for path in folder.iterdir()) == ["failed", "notes.txt"]
    assert "not-dicom" in (folder / "failed" / "bad.dcm.reason.txt").read_text()
