"""The person's side of a domain: signals, the escape key, the timeout, from the first moment on.

While the domain is built, what ends it is an exception in the main thread, which may be blocked in
a system call; while it runs, a call in the loop. Once its run is over, a disk that answers no more
may hold up what closes it: the second signal then ends the process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from uuid import uuid4

from kvmxen.errors import Interrupted
from kvmxen.loop import Loop
from kvmxen.machine import End
from kvmxen.streams import say

EXIT_TIMEOUT = 4
EXIT_INTERRUPTED = 130

# In seconds; setitimer(2) takes no more than a time_t holds, and no domain runs so long.
_LONGEST = 1e9


class Supervisor:
    """What a person wants of a domain that is built, runs, and may be built again."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.uuid = uuid4()
        self.status: int | None = None
        self._end: End | None = None
        self._asked = False
        self._ask: Callable[[], None] = lambda: None
        self._running = False
        self._over = False
        self._interruptible = False
        self._pending: Interrupted | None = None
        # What must be done even if the process ends at once.
        self.leaving: Callable[[], None] = lambda: None

    @contextmanager
    def signals(self, timeout: float | None) -> Iterator[None]:
        """For the time of the context SIGINT, SIGTERM and SIGHUP interrupt, and so does the end of
        `timeout` seconds."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]
        # nohup(1) has it ignored.
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
        """Within the context, in the main thread, what a person wants raises Interrupted anywhere,
        also if it was wanted before.

        Elsewhere it waits for the next such context or for `attach`, so that nothing that is let
        go of is left half-way.
        """
        try:
            self._interruptible = True
            self._check()
            yield
        finally:
            self._interruptible = False

    def attach(self, ask: Callable[[], None]) -> None:
        """From now on a domain runs, whose guest `ask()` requests to shut down.

        Raises Interrupted if a person wanted it to end before.
        """
        self._ask = ask
        self._running, self._over = True, False
        self._check()

    def wait(self) -> End:
        """Run the loop until the guest's run is over: how it ended.

        If it is a person or the timeout that ended it, `status` is the exit status for that.
        """
        while self._end is None:
            self.loop.run()
        self._running, self._over = False, True
        end, self._end = self._end, None
        return end

    def ended(self, end: End) -> None:
        """From any thread, before or after `attach`: the guest's run is over."""
        self._end = end
        self.loop.post(self.loop.stop)

    def interrupt(self) -> None:
        """The person wants it to end: ask the guest the first time, destroy it the second."""
        if not self._asked:
            self._asked = True
            say("asking the guest to shut down; once more to destroy it")
            self._ask()
        else:
            self._destroy(EXIT_INTERRUPTED)

    def _time_out(self) -> None:
        say("the timeout is over: the guest is destroyed")
        self._destroy(EXIT_TIMEOUT)

    def _destroy(self, status: int) -> None:
        self.status = status
        self.ended(End.DESTROYED)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        late = number == signal.SIGALRM
        if self._running:
            self.loop.post(self._time_out if late else self.interrupt)
            return
        if self._over and not late:
            self._leave(again=self._pending is not None)
        if self._pending is None:
            self._pending = (
                Interrupted("the timeout is over, and the guest was not started yet", EXIT_TIMEOUT)
                if late
                else Interrupted("interrupted before the guest was started", EXIT_INTERRUPTED)
            )
        if self._interruptible:
            self._check()

    def _leave(self, again: bool) -> None:
        if not again:
            say("the guest's devices are being closed; once more to leave them as they are")
            return
        self.leaving()
        os._exit(EXIT_INTERRUPTED)

    def _check(self) -> None:
        if self._pending is not None:
            # Once: what is let go of on the way out is let go of whole.
            self._interruptible = False
            raise self._pending
