"""What the demo prepares apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import typer

from agent.commands.demo import run_apart
from tests.waiting import wait_until

pytestmark = pytest.mark.unit

HELPER = "import time; time.sleep(600)"
COMMAND = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HELPER!r}])"


def test_an_interrupt_ends_all_of_it_without_a_word(tmp_path: Path) -> None:
    program = f"import sys; from agent.commands.demo import run_apart; run_apart([sys.executable, '-c', {COMMAND!r}])"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", program], stderr=log, start_new_session=True)
    me = psutil.Process(process.pid)
    started = wait_until(lambda: len(found := me.children(recursive=True)) == 2 and found, 60, "both")
    os.killpg(process.pid, signal.SIGINT)
    process.wait(30)
    wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in started), 30, "their end")
    said = (tmp_path / "log").read_text()
    assert (said.count("Traceback"), "time.sleep" in said) == (1, False), "only the stand-in for the command line shows where it was"


def test_a_failure_is_the_commands_own() -> None:
    with pytest.raises(typer.Exit) as failed:
        run_apart([sys.executable, "-c", "raise SystemExit(3)"])
    assert failed.value.exit_code == 3
