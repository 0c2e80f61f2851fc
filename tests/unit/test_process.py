"""What the processes share."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

PROGRAM = """
import sys, threading
from agent import logs
from agent.process import end_with_any_thread

class Panic(BaseException): pass
def die(): raise Panic("of password=hunter2")

logs.setup("vision")
stopping = threading.Event()
end_with_any_thread(stopping)
if sys.argv[1] == "stopping":
    stopping.set()
thread = threading.Thread(target=die, name="deliver-door")
thread.start()
thread.join()
print("still there")
"""


@pytest.mark.parametrize(("when", "code", "after"), [("running", 1, ""), ("stopping", 0, "still there\n")])
def test_a_process_does_not_outlive_one_of_its_threads(when: str, code: int, after: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, when], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, after)
    assert "CRITICAL vision almena: thread deliver-door ended by an error that nobody caught" in done.stderr
    assert "Panic: of password=***" in done.stderr
