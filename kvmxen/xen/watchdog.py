"""A domain's watchdogs (SCHEDOP_watchdog): timers that a guest must keep resetting to survive.

Source: domain_watchdog() of xen/common/sched/core.c.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable

from kvmxen.errors import HypercallError

# NR_DOMAIN_WATCHDOG_TIMERS
_TIMERS = 2
# The longest wait between two looks at the clock, in seconds.
_TICK = 1.0


class Watchdogs:
    """`fire(number)` is called, from a thread of its own, if the guest does not reset watchdog
    `number` (1 or 2) in time.

    `clock()` is in seconds. Time in which the guest could not run does not count: while `paused()`,
    and while this process was stopped, except for `_TICK` each time.
    """

    def __init__(
        self,
        fire: Callable[[int], None],
        paused: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fire = fire
        self._paused = paused
        self._clock = clock
        # Seconds left, by number.
        self._left: dict[int, float] = {}
        self._seen = 0.0
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def set(self, number: int, seconds: int) -> int:
        """SCHEDOP_watchdog: make watchdog `number` fire in `seconds`, or stop it if that is 0.

        Number 0 takes a free watchdog and returns its number; else 0 is returned. Raises
        HypercallError: EINVAL for a watchdog that is not taken, ENOSPC if none is free.
        """
        with self._changed:
            self._pass_time()
            if number == 0:
                free = set(range(1, _TIMERS + 1)) - self._left.keys()
                if not free:
                    raise HypercallError(errno.ENOSPC)
                taken = min(free)
                self._left[taken] = seconds
            elif number not in self._left:
                raise HypercallError(errno.EINVAL)
            elif seconds:
                self._left[number] = seconds
            else:
                del self._left[number]
            self._watch()
        return 0 if number else taken

    def stop(self) -> None:
        """Stop all watchdogs, except one that is already due."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the thread, after `stop`."""
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self) -> None:
        self._changed.notify()
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        number = self._first_due()
        if number is not None:
            self._fire(number)

    def _first_due(self) -> int | None:
        """Wait until a watchdog is due; returns its number, or None after `stop`."""
        with self._changed:
            while True:
                for number, left in self._left.items():
                    if left <= 0:
                        return number
                if self._stopped:
                    return None
                nearest = min(self._left.values(), default=None)
                self._changed.wait(None if nearest is None else min(nearest, _TICK))
                self._pass_time()

    def _pass_time(self) -> None:
        now = self._clock()
        passed = 0.0 if self._paused() else min(now - self._seen, _TICK)
        self._seen = now
        for number in self._left:
            self._left[number] -= passed
