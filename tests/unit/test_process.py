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


def test_memory_that_was_freed_is_used_again_without_asking_the_kernel_for_pages() -> None:
    program = """
import resource
from agent.process import keep_freed_memory

keep_freed_memory()
faults = []
for _ in range(20):
    pieces = [bytearray(b"x") * (2 << 20) for _ in range(8)]
    del pieces
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[9])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4096, "of the 40960 pages of ten rounds"
