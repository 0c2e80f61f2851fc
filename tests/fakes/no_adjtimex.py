"""Asks twice whether the clock is right, in a process that may not ask the kernel (seccomp, as systemd's ProtectClock does it)."""

from __future__ import annotations

import ctypes
import platform

from agent.clock import Clock, kernel_synchronised

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_ADJTIMEX, _CLOCK_ADJTIME = {"x86_64": (159, 305), "aarch64": (171, 266)}[platform.machine()]
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _NOT_PERMITTED = 0x7FFF0000, 0x00050001


class _Step(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.POINTER(_Step))]


def main() -> None:
    steps = (_Step * 5)(
        _Step(_LOAD, 0, 0, 0),
        _Step(_IF_EQUAL, 1, 0, _ADJTIMEX),
        _Step(_IF_EQUAL, 0, 1, _CLOCK_ADJTIME),
        _Step(_RETURN, 0, 0, _NOT_PERMITTED),
        _Step(_RETURN, 0, 0, _ALLOW),
    )
    libc = ctypes.CDLL(None)
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(_Program(5, steps))) == 0
    print(Clock().state, kernel_synchronised())


if __name__ == "__main__":
    main()
