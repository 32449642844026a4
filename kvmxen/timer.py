"""A vCPU's timers: singleshot, periodic, and the limit of a poll, on the one LAPIC deadline."""

from __future__ import annotations

from collections.abc import Callable

MSR_TSC_DEADLINE = 0x6E0
# Xen's PV vCPUs start with a tick of 10 ms, which every newer guest stops.
DEFAULT_PERIOD = 10_000_000
# 36 years, further than the counter behind the deadline can be told.
_NEVER = 1 << 60


class Timer:
    """All times are ns of system time; 0 means no deadline.

    `arm(deadline)` programs the interrupt, `has_listener()` says whether the guest bound
    VIRQ_TIMER. Any thread may set a timer; only the vCPU's own programs the interrupt, before
    it enters the guest, where `dirty` says so.
    """

    def __init__(
        self, now: Callable[[], int], arm: Callable[[int], None], has_listener: Callable[[], bool]
    ) -> None:
        self._now = now
        self._arm = arm
        self._has_listener = has_listener
        self._singleshot = 0
        self._period = DEFAULT_PERIOD
        self._next_tick = 0
        self._poll = 0
        self._armed = 0
        self.dirty = True

    def set_singleshot(self, deadline: int) -> None:
        """Fire once at `deadline`."""
        self._singleshot = deadline
        self.dirty = True

    def set_periodic(self, period: int) -> None:
        """Tick each `period` ns from now on, 0 for never."""
        self._period = period
        self._next_tick = 0
        self.dirty = True

    def set_poll(self, deadline: int) -> None:
        """Wake a poll at `deadline`."""
        self._poll = deadline
        self.dirty = True

    def program(self) -> None:
        """Program the earliest deadline."""
        self.dirty = False
        if self._period and not self._next_tick and self._has_listener():
            self._next_tick = self._now() + self._period
        deadlines = self._singleshot, self._next_tick, self._poll
        earliest = min(_NEVER, *(deadline or _NEVER for deadline in deadlines))
        earliest = 0 if earliest == _NEVER else earliest
        if earliest != self._armed:
            self._armed = earliest
            self._arm(earliest)

    def expire(self) -> bool:
        """The interrupt came: retire what is due; returns whether VIRQ_TIMER is to be raised."""
        now = self._now()
        due = False
        if 0 < self._singleshot <= now:
            self._singleshot = 0
            due = True
        if 0 < self._next_tick <= now:
            self._next_tick = now + self._period if self._period else 0
            due = True
        if 0 < self._poll <= now:
            self._poll = 0
        self._armed = 0
        self.dirty = True
        return due
