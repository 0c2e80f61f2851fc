"""Logs are readable or JSON, never hold a secret, and nothing that is logged can make a line of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.logs import mask

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("cannot open rtsp://admin:pw@cam.local/1", "cannot open rtsp://***@cam.local/1"),
        ("rtsp://admin:p@ss@10.0.0.5:554/x failed", "rtsp://***@10.0.0.5:554/x failed"),
        ("rtsp://admin:pa/ss@10.0.0.5:554/x failed", "rtsp://***@10.0.0.5:554/x failed"),
        ("http://token@host/a and mqtts://u:v@b:8883", "http://***@host/a and mqtts://***@b:8883"),
        ("http://cam:8080/mail@home", "http://cam:8080/mail@home"),
        ("http://cam/mail@home", "http://cam/mail@home"),
        ("password=hunter2, port=3", "password=***, port=3"),
        ("user-pw='a b' password='a b' next", "user-pw='a b' password=*** next"),
        ('{"password": "a, b", "x": 1}', '{"password": ***, "x": 1}'),
        ("PASSWORD: hunter2", "PASSWORD: ***"),
        ("?api_key=123&x=1", "?api_key=***&x=1"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: ***"),
        ("wrong password", "wrong password"),
        ("x.rtsp://a:b@c/1 'rtsp://d:8080/e@f' <rtsp://g:h@i>", "x.rtsp://***@c/1 'rtsp://d:8080/e@f' <rtsp://***@i>"),
        ("url=token=abc my-api-key: 'd e'", "url=token=*** my-api-key: ***"),
        ("almena at 12:30 <a@b.c>", "almena at 12:30 <a@b.c>"),
    ],
)
def test_masks_credentials(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text", ["a", "://", "a://", "x://a:", "a://b@", "a.-+", "password", "password ", "password_", "api-key", 'token="', "pwd=' "]
)
def test_masking_takes_linear_time(text: str) -> None:
    """Quadratic, each of these would take minutes."""
    hostile = (text * 200_000)[:200_000]
    started = time.process_time()
    mask(hostile)
    assert time.process_time() - started < 5


PROGRAM = """
import logging, threading, warnings
from agent.logs import setup
setup("vision")
log = logging.getLogger("agent.vision.sources.rtsp")
log.warning("lost %s", "rtsp://admin:hunter2@cam/1")
try:
    raise OSError("open rtsp://admin:hunter2@cam/1")
except OSError:
    log.exception("again")
warnings.warn("password=hunter2")
logging.getLogger("httpx").info("noise")
log.warning("moved %s", "a.jpg\\n00:00:00 ERROR uplink all is lost\\x1b[2J\\x85\\u2028\\u202e")
def fail(): raise ValueError("rtsp://admin:hunter2@cam/2\\n00:00:00 ERROR uplink all is lost")
thread = threading.Thread(target=fail); thread.start(); thread.join()
raise ValueError("rtsp://admin:hunter2@cam/3")
"""


def _log(**env: str) -> str:
    result = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "hunter2" not in result.stderr
    assert "noise" not in result.stderr
    return result.stderr


def test_readable_lines() -> None:
    lines = _log(ALMENA_LOG="").splitlines()
    assert lines[0].endswith("WARNING vision agent.vision.sources.rtsp: lost rtsp://***@cam/1")
    assert lines[0][2] == ":"
    assert "  OSError: open rtsp://***@cam/1" in lines
    assert "  ValueError: rtsp://***@cam/3" in lines
    (moved,) = (line for line in lines if "moved" in line)
    assert moved.endswith(r"moved a.jpg\n00:00:00 ERROR uplink all is lost\u001b[2J\u0085\u2028\u202e")
    ours = re.compile(r"\d\d:\d\d:\d\d (WARNING|ERROR  |CRITICAL) vision |  ")
    assert [line for line in lines if not ours.match(line)] == []


def test_json_lines() -> None:
    records = [json.loads(line) for line in _log(ALMENA_LOG="json").splitlines()]
    assert {record["process"] for record in records} == {"vision"}
    assert [record["level"] for record in records] == ["warning", "error", "warning", "warning", "critical", "critical"]
    assert records[0]["message"] == "lost rtsp://***@cam/1"
    assert "OSError" in records[1]["exception"]
    assert records[3]["message"] == "moved a.jpg\n00:00:00 ERROR uplink all is lost\x1b[2J\x85\u2028\u202e"
    assert "rtsp://***@cam/2" in records[4]["exception"]
    assert "rtsp://***@cam/3" in records[5]["exception"]


def test_the_journal_learns_how_bad_it_is(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+b") as journal:
        place = os.fstat(journal.fileno())
        env = {**os.environ, "ALMENA_LOG": "json", "JOURNAL_STREAM": f"{place.st_dev}:{place.st_ino}"}
        subprocess.run([sys.executable, "-c", PROGRAM], env=env, stderr=journal, check=False)
        journal.seek(0)
        lines = journal.read().decode().splitlines()
    assert [line[:3] for line in lines] == ["<4>", "<3>", "<4>", "<4>", "<2>", "<2>"]
    assert all(json.loads(line[3:]) for line in lines)
    assert _log(ALMENA_LOG="json", JOURNAL_STREAM="1:1").startswith("{"), "not what the journal reads"
