"""An emulated machine with Debian's kernel, which has the camera `vivid`. Almena is put into its image with `almena install --root`."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

from provisioning.host import install as host
from provisioning.host.places import Places
from provisioning.host.plan import Plan
from provisioning.host.releases import Recipe

LIMIT_S = 1500
QEMU = f"qemu-system-{platform.machine()}"
SETTINGS = """\
device: {name: gate}
state_dir: /var/lib/almena
gallery: {key_file: /etc/almena/keys/gallery.key}
streams:
- name: test
  source: {type: v4l2, device: /dev/video0, width: 320, height: 180, rate: 5, mjpeg: false}
  tasks: []
"""
UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /srv/camera.py
StandardOutput=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""


def image(merged: Path, wheel: Path, wheels: Path, out: Path) -> None:
    """Almena in the root, and the root in a file."""
    host.install(Places(merged), Recipe(wheel, ("cpu",), wheels=wheels), Plan(say=lambda _: None))
    (merged / "etc/almena/almena.yaml").write_text(SETTINGS)
    (merged / "etc/modules-load.d/vivid.conf").write_text("vivid\n")
    (merged / "etc/modprobe.d/vivid.conf").write_text("options vivid n_devs=2 node_types=0x1,0x1\n")
    shutil.copy(Path(__file__).with_name("camera.py"), merged / "srv/camera.py")
    system = merged / "etc/systemd/system"
    (system / "camera.service").write_text(UNIT)
    (system / "multi-user.target.wants/field.service").unlink()
    (system / "multi-user.target.wants/camera.service").symlink_to("../camera.service")
    out.unlink(missing_ok=True)
    with out.open("wb") as file:
        file.truncate(4 * 1024**3)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(merged), str(out)], check=True)


def boot(root: Path, disk: Path, console: Path) -> list[dict[str, object]]:
    """Run it, without KVM, so that it works within a virtual machine; what it printed."""
    (kernel,), (first,) = root.glob("boot/vmlinuz-*"), root.glob("boot/initrd.img-*")
    command = [QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2", "-nographic", "-no-reboot", "-net", "none"]
    command += ["-kernel", str(kernel), "-initrd", str(first), "-drive", f"file={disk},if=virtio,format=raw"]
    command += ["-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 panic=-1"]
    with console.open("wb") as log:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=LIMIT_S, check=False)
    said = console.read_text(errors="replace")
    found = [json.loads(line) for line in re.findall(r"FIELD (\{.*\})", said)]
    return found or [{"step": "machine", "ok": False, "seconds": 0, "saw": f"nothing: see {console}"}]
