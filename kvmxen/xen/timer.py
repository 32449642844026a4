"""A vCPU's timers on one LAPIC deadline: singleshot, periodic, and one to check for events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# Xen's PV vCPUs start with a tick of 10 ms; newer guests all stop it.
DEFAULT_PERIOD = 10_000_000
# 36 years, more than the counter behind the deadline can express.
_NEVER = 1 << 60


class Deadlines(Protocol):
    """The earliest deadline of each kind, and the programmed one. They are in the vCPU's shared
    state, because the dispatcher handles the singleshot timer too."""

    singleshot: int
    others: int
    armed: int


class Timer:
    """All times are ns of system time; 0 means no deadline.

    `deadlines` are shared with the dispatcher; `arm(deadline)` programs the interrupt;
    `has_listener()` says whether the guest has bound VIRQ_TIMER. Any thread may set a timer; only
    the vCPU's own thread programs the interrupt, before it enters the guest, if `dirty` is set.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        now: Callable[[], int],
        arm: Callable[[int], None],
        has_listener: Callable[[], bool],
    ) -> None:
        self._shared = deadlines
        self._now = now
        self._arm = arm
        self._has_listener = has_listener
        self._period = DEFAULT_PERIOD
        self._next_tick = 0
        self._wake = 0
        self.dirty = True

    def set_singleshot(self, deadline: int) -> None:
        """Fire once at `deadline`."""
        self._shared.singleshot = deadline
        self.dirty = True

    def set_periodic(self, period: int) -> None:
        """Tick every `period` ns from now on; 0 stops the ticks."""
        self._period = period
        self._next_tick = 0
        self.dirty = True

    def set_wake(self, deadline: int) -> None:
        """Make the vCPU exit at `deadline`, when a poll ends or a withheld upcall is due."""
        self._wake = deadline
        self.dirty = True

    def program(self) -> None:
        """Program the earliest deadline."""
        self.dirty = False
        if self._period and not self._next_tick and self._has_listener():
            self._next_tick = self._now() + self._period
        shared = self._shared
        shared.others = _earliest(self._next_tick, self._wake)
        earliest = _earliest(shared.singleshot, shared.others)
        if earliest != shared.armed:
            shared.armed = earliest
            self._arm(earliest)

    def expire(self) -> bool:
        """Handle the interrupt: retire expired timers; returns whether to raise VIRQ_TIMER."""
        now = self._now()
        due = False
        if 0 < self._shared.singleshot <= now:
            self._shared.singleshot = 0
            due = True
        if 0 < self._next_tick <= now:
            self._next_tick = now + self._period if self._period else 0
            due = True
        if 0 < self._wake <= now:
            self._wake = 0
        self._shared.armed = 0
        self.dirty = True
        return due


def _earliest(*deadlines: int) -> int:
    return min((deadline for deadline in deadlines if 0 < deadline < _NEVER), default=0)
