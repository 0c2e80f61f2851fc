"""What kind of board this is: power mode, throttling, accelerators and their drivers. `root` stands for `/`.

Raspberry Pi: the firmware's word of flags. Jetson: nvpmodel's status file and configuration, and the counters of over-current events
(Jetson Linux Developer Guide). x86: the kernel's counters of thermal throttling.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from agent.checkup import Check
from agent.raspberry_pi import THROTTLED, slowed_now, slowed_since_start
from engines.files import text_of

JETPACK = {"36.2": "6.0 DP", "36.3": "6.0", "36.4": "6.1 to 6.2.1", "36.5": "6.2.2", "38.2": "7.0", "38.4": "7.1", "39.2": "7.2"}
"""By L4T release."""
INTEL, AMD, NVIDIA = "0x8086", "0x1002", "0x10de"
VENDORS = {INTEL: "Intel", AMD: "AMD", NVIDIA: "NVIDIA"}


def board_checks(root: Path = Path("/")) -> list[Check]:
    """All of them."""
    return [system(root), power_mode(root), throttling(root), accelerators(root)]


def system(root: Path) -> Check:
    """The distribution, JetPack, and whether programs are of 64 bits."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text_of(root / "etc/os-release"), re.MULTILINE))
    name = fields.get("PRETTY_NAME") or "an unknown distribution"
    tegra = re.search(r"R(\d+) \(release\), REVISION: (\d+)", text_of(root / "etc/nv_tegra_release"))
    if tegra:
        name += f", JetPack {JETPACK.get(f'{tegra[1]}.{tegra[2]}', f'of L4T {tegra[1]}.{tegra[2]}')}"
    if platform.architecture()[0] != "64bit":
        advice = "Inference needs a system of 64 bits: install the 64-bit image (Raspberry Pi OS has one for the Pi 4 and 5)."
        return Check("system", "fail", f"{name}, programs of 32 bits", advice)
    return Check("system", "ok", name)


def power_mode(root: Path) -> Check:
    """nvpmodel's mode on a Jetson, elsewhere the frequency governor of the processor."""
    if (root / "etc/nv_tegra_release").is_file():
        return _nvpmodel(root)
    governor = text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    driver = text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    if not governor:
        return Check("power mode", "ok", "not told by this kernel")
    if governor == "powersave" and driver not in ("intel_pstate", "amd-pstate-epp"):
        advice = (
            "The processor stays at its lowest frequency: echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
        return Check("power mode", "warn", f"governor {governor} of {driver}", advice)
    return Check("power mode", "ok", f"governor {governor} of {driver}")


def _nvpmodel(root: Path) -> Check:
    found = re.search(r"pmode:0*(\d+)", text_of(root / "var/lib/nvpmodel/status"))
    configured = text_of(root / "etc/nvpmodel.conf")
    names = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", configured))
    if not found:
        return Check("power mode", "warn", "nvpmodel does not tell", "sudo nvpmodel -q; nothing is known before it has run once.")
    others = ", ".join(f"{number} {name}" for number, name in names.items() if number != found[1])
    return Check("power mode", "ok", f"{found[1]} {names.get(found[1], '?')}" + (f"; others: {others}" if others else ""))


def throttling(root: Path) -> Check:
    """Whether heat or the power supply slow the processor down, or have done so since the start."""
    word = _firmware_word(root)
    if word is not None:
        advice = "Use the official power supply (5 V, 3 A for the Pi 4, 5 A for the Pi 5), short cables and active cooling."
        if now := slowed_now(word):
            return Check("throttling", "fail", f"now: {now}", advice)
        if once := slowed_since_start(word):
            return Check("throttling", "warn", f"since the start: {once}", advice)
        return Check("throttling", "ok", "none since the start")
    counts = [text_of(path) for path in root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count")]
    hot = max((int(count) for count in counts if count.isdigit()), default=None)
    cooling = sorted({name for place in root.glob("sys/class/thermal/cooling_device*") if (name := _slowed(place))})
    starved = sorted(path for path in root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt") if text_of(path) not in ("", "0"))
    if starved and not (hot or cooling):
        text = ", ".join(f"{path.name.removesuffix('_event_cnt')} {text_of(path)} times since the start" for path in starved)
        advice = (
            "The power supply or this power mode gives less than the board asks for: a stronger supply, or sudo nvpmodel -m a lower mode."
        )
        return Check("throttling", "warn", f"too much current: {text}", advice)
    if hot or cooling:
        text = ", ".join([*([f"{hot} times since the start"] if hot else []), *(f"{name} is held back now" for name in cooling)])
        return Check("throttling", "warn", text, "It gets too hot: clean or add a fan, or choose a lower power mode and steady speed.")
    return Check("throttling", "ok", "none since the start" if hot is not None else "none now")


def _slowed(place: Path) -> str:
    """The name of a processor or GPU that a thermal governor holds back; "" of one that it does not, and of fans."""
    name, state = text_of(place / "type"), text_of(place / "cur_state")
    return name if re.search(r"cpufreq|throttle|Processor|devfreq", name) and state not in ("", "0") else ""


def _firmware_word(root: Path) -> int | None:
    """What a Raspberry Pi's firmware says; None elsewhere."""
    if "Raspberry Pi" not in text_of(root / "proc/device-tree/model"):
        return None
    said = text_of(root / THROTTLED)
    if not said and root == Path("/") and shutil.which("vcgencmd"):
        try:
            done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        said = done.stdout.strip().removeprefix("throttled=")
    try:
        return int(said, 16)
    except ValueError:
        return None


def accelerators(root: Path) -> Check:
    """GPUs and NPUs that the kernel has a driver for, and what is missing beside the driver."""
    found, wrong, advice = [], [], []
    if (root / "dev/nvmap").exists() or (root / "dev/nvhost-gpu").exists():
        found.append("NVIDIA Tegra GPU")
    if (root / "dev/nvidia0").exists():
        found.append("NVIDIA GPU")
    for node in sorted(root.glob("sys/class/drm/renderD*")):
        vendor = text_of(node / "device/vendor")
        name = f"{VENDORS.get(vendor, 'other')} GPU ({node.name})"
        found.append(name)
        if vendor == INTEL and not any(root.glob("etc/OpenCL/vendors/intel*.icd")):
            wrong.append(f"{name} without OpenCL")
            advice.append("sudo apt install intel-opencl-icd")
    if any(root.glob("dev/accel/accel*")):
        found.append("NPU")
        if not any(root.glob("usr/lib/*/libze_intel_*pu.so*")):
            wrong.append("NPU without its library")
            advice.append("install intel-level-zero-npu and intel-driver-compiler-npu of github.com/intel/linux-npu-driver")
    text = ", ".join(found) or "none; models run on the processor"
    if wrong:
        return Check("accelerators", "warn", f"{text}; {', '.join(wrong)}", f"To use it: {'; '.join(advice)}. The processor works without.")
    return Check("accelerators", "ok", text)


def may(path: Path, uid: int, groups: set[int]) -> bool:
    """Whether an account may read and write it, as far as owner, group and mode tell."""
    found = os.stat(path)
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
    return found.st_mode >> shift & 0o6 == 0o6
