"""The eventfd that wakes a backend's thread, in its poll(2) or its io_uring."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from threading import Lock


class Doorbell:
    """`fd` is readable from the first ring until it is read. KVM may ring it too."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._unread = 0
        # Nobody may ring with a descriptor that has become another's.
        self._lock = Lock()

    @property
    def unread(self) -> int:
        """The number of rings since `fd` was last read, up to its closing."""
        with self._lock:
            if self.fd >= 0:
                # Reading it would take the rings from its thread (proc_pid_fdinfo(5)). If there
                # are no descriptors left, the figure is the previous one.
                with suppress(OSError):
                    shown = Path(f"/proc/self/fdinfo/{self.fd}").read_text()
                    found = re.search(r"eventfd-count:\s*([0-9a-f]+)", shown)
                    self._unread = int(found[1], 16) if found else 0
            return self._unread

    def ring(self) -> None:
        """Ring; callable from any thread; does nothing after `close`."""
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Close the descriptor."""
        _ = self.unread
        with self._lock:
            fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
