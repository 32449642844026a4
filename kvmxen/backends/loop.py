"""A domain's event loop: file descriptors, calls from other threads, deadlines."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Watcher(Protocol):
    """The part of Loop that a backend uses."""

    def watch(self, fd: int, readable: bool, callback: Callable[[], None]) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def post(self, callback: Callable[[], None]) -> None: ...


class Loop:
    """Runs callbacks one at a time until `stop`. Uses poll(2), which takes regular files too."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # In posting order; a dict, because each callback waits at most once.
        self._posted: dict[Callable[[], None], None] = {}
        self._deadlines: list[tuple[float, Callable[[], None]]] = []
        self._running = self._closed = False
        # A signal handler may post while it interrupts a post of its own thread.
        self._lock = threading.RLock()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._drain)

    def close(self) -> None:
        """Drop all callbacks and close the loop's own descriptor."""
        with self._lock:
            self._closed = True
            self._selector.close()
            os.close(self._wakeup)

    def watch(self, fd: int, readable: bool, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` is readable, or writable if `readable` is false.

        Raises KeyError if `fd` is watched already: two users of it are one too many.
        """
        event = selectors.EVENT_READ if readable else selectors.EVENT_WRITE
        self._selector.register(fd, event, callback)

    def unwatch(self, fd: int) -> None:
        """End the watch of `fd`, if there is one."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def post(self, callback: Callable[[], None]) -> None:
        """From any thread or signal handler: call `callback` soon, only once if it waits already.

        A closed loop drops it.
        """
        with self._lock:
            if not self._closed:
                self._posted[callback] = None
                os.eventfd_write(self._wakeup, 1)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now."""
        self._deadlines.append((time.monotonic() + seconds, callback))
        self._deadlines.sort(key=lambda item: item[0])

    def run(self) -> None:
        """Run callbacks until one of them calls `stop`."""
        self._running = True
        while self._running:
            timeout = None
            if self._deadlines:
                timeout = max(0.0, self._deadlines[0][0] - time.monotonic())
            for key, _ in self._selector.select(timeout):
                key.data()
            # Callbacks that these post run after the other descriptors and deadlines.
            for callback in list(self._posted):
                del self._posted[callback]
                callback()
            while self._deadlines and self._deadlines[0][0] <= time.monotonic():
                self._deadlines.pop(0)[1]()

    def stop(self) -> None:
        """End `run` after the callback in progress."""
        self._running = False

    def _drain(self) -> None:
        os.eventfd_read(self._wakeup)
