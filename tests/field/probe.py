"""What a confined process may do, tried from within: prints one JSON object. Runs under the properties of a unit, in its place."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER_NAMESPACE = 0x10000000


def _tried(action: Callable[[], object]) -> str:
    """What became of it: `done`, or the name of the error."""
    try:
        action()
    except (OSError, ValueError) as error:
        return type(error).__name__
    return "done"


def _called(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _writable_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def main() -> None:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    tries: dict[str, Callable[[], object]] = {
        "write /etc": lambda: Path("/etc/almena-probe").touch(),
        "write /opt": lambda: Path("/opt/almena/probe").touch(),
        "write /tmp": lambda: Path("/tmp/probe").touch(),
        "read keys": lambda: Path("/etc/almena/keys/gallery.key").read_bytes(),
        "read gallery": lambda: os.listdir("/var/lib/almena/gallery"),
        "read identity": lambda: os.listdir("/var/lib/almena/identity"),
        "read /home": lambda: os.listdir("/home"),
        "write outbox": lambda: Path(f"/var/lib/almena/outbox/probe-{os.getuid()}").touch(),
        "write hub": lambda: Path(f"/var/lib/almena/hub/probe-{os.getuid()}").touch(),
        "write fleet": lambda: Path(f"/var/lib/almena/fleet/probe-{os.getuid()}").touch(),
        "read ca": lambda: Path("/var/lib/almena/fleet/ca.p12").read_bytes(),
        "read passphrase": lambda: Path("/etc/almena/enrol/ca.passphrase").read_bytes(),
        "open /dev/kmsg": lambda: os.open("/dev/kmsg", os.O_RDONLY),
        "open /dev/fuse": lambda: os.open("/dev/fuse", os.O_RDWR),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW).close(),
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "tcp socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
        "writable code": _writable_code,
        "namespace": lambda: _called(LIBC.unshare(NEW_USER_NAMESPACE)),
        "mount": lambda: _called(LIBC.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
        "set the clock": lambda: _called(LIBC.settimeofday(ctypes.byref((ctypes.c_long * 2)(0, 0)), None)),
        "set the host name": lambda: socket.sethostname("probe"),
        "become root": lambda: os.setuid(0),
        "write kernel settings": lambda: Path("/proc/sys/kernel/domainname").write_text("x"),
        "see process 1": lambda: os.stat("/proc/1/status"),
    }
    found: dict[str, object] = {"tries": {name: _tried(action) for name, action in tries.items()}}
    kept = ("NoNewPrivs", "Seccomp", "CapBnd", "CapEff", "Uid")
    found |= {name: status[name].strip() for name in kept}
    found["user namespace of its own"] = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    found["credentials"] = sorted(os.listdir(os.environ["CREDENTIALS_DIRECTORY"]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
