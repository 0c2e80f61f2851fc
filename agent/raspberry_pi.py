"""What the firmware of a Raspberry Pi says of heat and power: a word of flags (documentation of `vcgencmd get_throttled`)."""

from __future__ import annotations

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
"""Where the kernel shows the word, in hexadecimal digits; below the root of the host."""

_FLAGS = {0: "too little voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def slowed_now(word: int) -> str:
    """What slows the processor down at this moment, in words; "" is nothing."""
    return ", ".join(what for bit, what in _FLAGS.items() if word >> bit & 1)


def slowed_since_start(word: int) -> str:
    """The same of the whole time since the start, of which bits 16 to 19 tell."""
    return slowed_now(word >> 16)
