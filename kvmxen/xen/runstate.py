"""How long a vCPU was in each state, for the guest to read (xen/include/public/vcpu.h)."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from kvmxen.xen.abi.vcpu import VcpuRunstateInfo


class State(IntEnum):
    """RUNSTATE_*"""

    RUNNING = 0
    RUNNABLE = 1
    BLOCKED = 2
    OFFLINE = 3


class Sleeper(Protocol):
    """The dispatcher, in which a vCPU that the host counts as running may wait for an event:
    for how many ns it has waited, and since when it waits now (0: it does not)."""

    @property
    def slept(self) -> int: ...

    @property
    def asleep_since(self) -> int: ...


class Runstate:
    """Times in ns of system time."""

    def __init__(self, now: int, sleeper: Sleeper) -> None:
        self.state = State.OFFLINE
        self._since = now
        self._times = [0, 0, 0, 0]
        self._sleeper = sleeper
        self._slept = sleeper.slept

    def enter(self, state: State, now: int) -> None:
        """Record that the vCPU is in `state` from `now` on."""
        self._times = self._account(now)
        self.state, self._since = state, now
        self._slept = self._sleeper.slept

    def pack(self, now: int) -> bytes:
        """struct vcpu_runstate_info as of `now`."""
        state, since = self.state, self._since
        if state is State.RUNNING and self._sleeper.asleep_since:
            state, since = State.BLOCKED, self._sleeper.asleep_since
        return VcpuRunstateInfo.bits64.pack(state, since, *self._account(now))

    def _account(self, now: int) -> list[int]:
        times = list(self._times)
        elapsed = max(0, now - self._since)
        if self.state is State.RUNNING:
            asleep = self._sleeper.asleep_since
            blocked = self._sleeper.slept - self._slept + (now - asleep if asleep else 0)
            blocked = min(max(0, blocked), elapsed)
            times[State.BLOCKED] += blocked
            elapsed -= blocked
        times[self.state] += elapsed
        return times
