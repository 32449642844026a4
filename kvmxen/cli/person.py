"""The person's side of a domain, from the first moment on: signals, the escape key, the timeout.

While the domain is built, a request to end it is an exception in the main thread, which may be
blocked in a system call. From then on the first request asks the guest to shut down, the second
destroys it, and the third abandons a device that does not close.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from types import FrameType
from typing import Protocol

from kvmxen.cli.status import INTERRUPTED, TIMED_OUT
from kvmxen.errors import Interrupted
from kvmxen.streams import say

# In seconds; setitimer(2) takes no more than a time_t holds, and no domain runs that long.
_LONGEST = 1e9


class Guest(Protocol):
    """The part of a domain with which a person ends it."""

    def shutdown(self) -> bool: ...
    def destroy(self) -> None: ...


class Person:
    """A person's requests to a domain that is built and runs.

    If a person or the timeout ended it, `status` is the exit status for that. `leaving()` is the
    cleanup that must happen even if the process ends at once. A guest that was asked to shut down
    is destroyed `patience` seconds later.
    """

    def __init__(self, patience: float | None = None) -> None:
        self._patience = patience
        self.status: int | None = None
        self.leaving: Callable[[], None] = lambda: None
        self._guest: Guest | None = None
        self._wishes = 0
        self._interruptible = False
        self._pending: Interrupted | None = None

    @contextmanager
    def signals(self, timeout: float | None) -> Iterator[None]:
        """Within the context, SIGINT, SIGTERM and SIGHUP interrupt, and so does the end of
        `timeout` seconds."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]
        # nohup(1) makes us ignore it.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        if timeout is None:
            numbers.remove(signal.SIGALRM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            if timeout is not None:
                signal.setitimer(signal.ITIMER_REAL, min(timeout, _LONGEST))
            yield
        finally:
            if timeout is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the context, a person's request raises Interrupted anywhere in the main thread,
        even if it came earlier.

        Outside it, a request waits for the next such context or for `watch`, so that no cleanup is
        left half done.
        """
        try:
            self._interruptible = True
            self._check()
            yield
        finally:
            self._interruptible = False

    def watch(self, guest: Guest) -> None:
        """A person's requests end `guest` from now on.

        Raises Interrupted if a person has asked for the end before.
        """
        self._guest = guest
        self._check()

    def interrupt(self) -> None:
        """Record the person's request to end it."""
        guest = self._guest
        if guest is None:
            return
        self._wishes += 1
        if self._wishes == 1:
            say("asking the guest to shut down; repeat to destroy it")
            if not guest.shutdown():
                self._destroy(guest, INTERRUPTED)
            elif self._patience is not None:
                timer = Timer(self._patience, self._lose_patience, (guest,))
                timer.daemon = True
                timer.start()
        elif self._wishes == 2:
            self._destroy(guest, INTERRUPTED)
        else:
            say("exiting without waiting for the guest's devices")
            self.leaving()
            os._exit(INTERRUPTED)

    def _lose_patience(self, guest: Guest) -> None:
        say(f"the guest has not shut down in {self._patience:g} seconds: destroying it")
        self._destroy(guest, INTERRUPTED)

    def _destroy(self, guest: Guest, status: int) -> None:
        self.status = status
        guest.destroy()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        late = number == signal.SIGALRM
        if self._guest is None:
            self._end_building(late)
        elif late:
            say("the time limit is reached: destroying the guest")
            self._destroy(self._guest, TIMED_OUT)
        else:
            self.interrupt()

    def _end_building(self, late: bool) -> None:
        if self._pending is None:
            self._pending = (
                Interrupted("the time limit was reached before the guest was started", TIMED_OUT)
                if late
                else Interrupted("interrupted before the guest was started", INTERRUPTED)
            )
        if self._interruptible:
            self._check()

    def _check(self) -> None:
        if self._pending is not None:
            # Only once, so that the cleanup on the way out is complete.
            self._interruptible = False
            raise self._pending
