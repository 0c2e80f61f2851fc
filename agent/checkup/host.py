"""The machine: platform, processor, memory, disk, clock, cameras. `root` stands for `/`."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from pathlib import Path

import psutil

from agent.cameras import video_devices
from agent.checkup import Check
from agent.clock import kernel_synchronised
from calibration.power import power_meter
from engines.files import text_of

GIBIBYTE = 1024**3
LOW_MEMORY = 0.5 * GIBIBYTE
LOW_DISK = 1 * GIBIBYTE
NO_DISK = 0.1 * GIBIBYTE
FAST = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16")
"""What makes inference fast: the flags of /proc/cpuinfo on x86 and ARM."""


def host_checks(state_dir: Path, root: Path = Path("/")) -> list[Check]:
    """All of them."""
    return [machine(root), python(), processor(root), memory(), disk(state_dir), clock(), cameras(root), energy(root)]


def energy(root: Path) -> Check:
    """The sensors that energy is counted with, or why there are none."""
    meter = power_meter(root, nvml=root == Path("/"))
    return Check("energy", "ok", meter.source or f"not available: {meter.missing}")


def machine(root: Path) -> Check:
    """Jetson with its L4T release, Raspberry Pi, or a plain machine."""
    board = text_of(root / "proc/device-tree/model")
    tegra = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text_of(root / "etc/nv_tegra_release"))
    if tegra:
        text = f"{board or 'NVIDIA Jetson'}, L4T {tegra[1]}.{tegra[2]}"
        if int(tegra[1]) < 36:
            return Check("platform", "warn", text, "JetPack 6 or later is needed for TensorRT; the processor's runtimes work.")
        return Check("platform", "ok", text)
    return Check("platform", "ok", f"{board or 'generic'}, {platform.machine()}, Linux {platform.release()}")


def python() -> Check:
    """The interpreter."""
    return Check("python", "ok", f"{platform.python_version()} at {sys.prefix}")


def processor(root: Path) -> Check:
    """Name, cores, and the instructions that inference profits from."""
    fields = dict(re.findall(r"^([^:\n\t]+?)\s*:[ \t]*(.*)$", text_of(root / "proc/cpuinfo"), re.MULTILINE))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    found = [flag for flag in FAST if flag in flags]
    name = fields.get("model name") or platform.processor() or platform.machine()
    return Check("processor", "ok", f"{name}, {os.cpu_count()} cores; {', '.join(found) if found else 'no fast instructions'}")


def memory() -> Check:
    """Free memory."""
    found = psutil.virtual_memory()
    text = f"{found.available / GIBIBYTE:.1f} of {found.total / GIBIBYTE:.1f} GiB free"
    if found.available < LOW_MEMORY:
        return Check("memory", "warn", text, "The agent needs about half a gibibyte; stop other programs or use fewer streams.")
    return Check("memory", "ok", text)


def disk(state_dir: Path) -> Check:
    """Room for the state folder, and the right to write there."""
    place = next(folder for folder in (state_dir, *state_dir.absolute().parents) if folder.exists())
    text = f"{shutil.disk_usage(place).free / GIBIBYTE:.1f} GiB free for {state_dir}"
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("disk", "fail", f"{place} cannot be written", "Run as the user who owns it, or set state_dir to another folder.")
    if shutil.disk_usage(place).free < NO_DISK:
        return Check("disk", "fail", text, "Free some space: results cannot be stored.")
    if shutil.disk_usage(place).free < LOW_DISK:
        return Check("disk", "warn", text, "Free some space, or lower the limits in the outbox section.")
    return Check("disk", "ok", text)


def clock() -> Check:
    """Whether the kernel calls its clock synchronised (adjtimex(2))."""
    try:
        if kernel_synchronised():
            return Check("clock", "ok", "synchronised")
    except OSError as error:
        return Check("clock", "warn", f"cannot be asked: {error.strerror}", "Events are marked `unsynced` until it can.")
    advice = "Install and start chrony or systemd-timesyncd; until then events are marked `unsynced`."
    return Check("clock", "warn", "not synchronised", advice)


def cameras(root: Path) -> Check:
    """Video devices and whether this user may open them."""
    nodes = video_devices(root / "dev")
    if not nodes:
        return Check("cameras", "ok", "no local camera")
    names = sorted(str(link) for link in (root / "dev/v4l/by-id").glob("*"))
    text = ", ".join(str(node) for node in nodes) + (f"; stable names: {', '.join(names)}" if names else "")
    closed = [str(node) for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        advice = "Add the user to the group that owns them: sudo usermod -aG video $USER, then log in again."
        return Check("cameras", "warn", f"{text}; no right to open {', '.join(closed)}", advice)
    return Check("cameras", "ok", text)
