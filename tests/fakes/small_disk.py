"""A small file system of its own, which can really be full. Who may not mount gets it in a user namespace (user_namespaces(7))."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.settings import MEBIBYTE

PREFIX = "almena-test-disk-"
ROOT = Path(__file__).parents[2]
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
NEEDED = (
    "this test mounts a small file system, for which it must be root (with CAP_SYS_ADMIN), or be allowed user namespaces: "
    "sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0, or in a container --cap-add SYS_ADMIN"
)
BALLAST, BALLAST_MEBIBYTES = "ballast", 24
_SYS_ADMIN = 21


def on_small_disk(mebibytes: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a test its `small_disk`, a folder with so much room. Where this process may not mount, the test runs in one that may."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            if not _may_mount():
                _run_in_namespace(os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])
                return
            with _mounted(mebibytes) as folder:
                test(small_disk=folder, **fixtures)

        wanted = inspect.signature(test)
        rest = [parameter for name, parameter in wanted.parameters.items() if name != "small_disk"]
        run.__signature__ = wanted.replace(parameters=rest)  # type: ignore[attr-defined]
        return run

    return decorate


def enlarge(folder: Path) -> None:
    """Give it 24 MiB more. (A remount would do that only for root.)"""
    (folder / BALLAST).unlink()


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return filler


def _may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN (capabilities(7)) in its own namespace."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> _SYS_ADMIN & 1)


def _run_in_namespace(test: str) -> None:
    allowed = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)
    assert allowed.returncode == 0, f"{NEEDED} ({allowed.stderr.strip()})"
    with tempfile.TemporaryDirectory(prefix="almena-test-namespace-") as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/t", test]
        done = subprocess.run([*NAMESPACE, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"in a user namespace:\n{done.stdout}{done.stderr}"


@contextmanager
def _mounted(mebibytes: int) -> Iterator[Path]:
    """It lies outside pytest's folders, and what a killed test run has left mounted is unmounted here."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        ours = folder.stat().st_uid == os.getuid()
        if ours and not Path(f"/proc/{folder.name.removeprefix(PREFIX).partition('-')[0]}").exists():
            _remove(folder)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes + BALLAST_MEBIBYTES}m", "tmpfs", str(folder)], check=True)
        with (folder / BALLAST).open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, BALLAST_MEBIBYTES * MEBIBYTE)
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    while folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()
