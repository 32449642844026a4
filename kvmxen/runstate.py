"""How long a vCPU was in each state, as the guest may see it (xen/include/public/vcpu.h)."""

from __future__ import annotations

import struct
from enum import IntEnum

_RUNSTATE_INFO = struct.Struct("<i4x5Q")


class State(IntEnum):
    """RUNSTATE_*"""

    RUNNING = 0
    RUNNABLE = 1
    BLOCKED = 2
    OFFLINE = 3


class Runstate:
    """Times in ns of system time."""

    def __init__(self, now: int) -> None:
        self.state = State.OFFLINE
        self._since = now
        self._times = [0, 0, 0, 0]

    def enter(self, state: State, now: int) -> None:
        """The vCPU is in `state` from `now` on."""
        self._times[self.state] += max(0, now - self._since)
        self.state, self._since = state, now

    def pack(self, now: int) -> bytes:
        """struct vcpu_runstate_info as of `now`."""
        times = list(self._times)
        times[self.state] += max(0, now - self._since)
        return _RUNSTATE_INFO.pack(self.state, self._since, *times)
