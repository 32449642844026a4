"""What wakes a backend's thread: an eventfd, for its poll(2) or its io_uring."""

from __future__ import annotations

import os
from threading import Lock


class Doorbell:
    """`fd` is readable from the first `ring` on until it is read."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.rung = 0
        # Whoever rings must not do so with a descriptor that is another's by then.
        self._lock = Lock()

    def ring(self) -> None:
        """From any thread; nothing after `close`."""
        with self._lock:
            if self.fd >= 0:
                self.rung += 1
                os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Close the descriptor."""
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
