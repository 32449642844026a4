"""What wakes a backend's thread: an eventfd, for its poll(2) or its io_uring."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from threading import Lock


class Doorbell:
    """`fd` is readable from the first ring on until it is read. KVM may ring it too."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._unread = 0
        # Whoever rings must not do so with a descriptor that is another's by then.
        self._lock = Lock()

    @property
    def unread(self) -> int:
        """How often it was rung since its `fd` was read, at its closing at the latest."""
        with self._lock:
            if self.fd >= 0:
                # To read it would keep it from its thread (proc_pid_fdinfo(5)).
                # Out of descriptors, the figure is the one before.
                with suppress(OSError):
                    shown = Path(f"/proc/self/fdinfo/{self.fd}").read_text()
                    found = re.search(r"eventfd-count:\s*([0-9a-f]+)", shown)
                    self._unread = int(found[1], 16) if found else 0
            return self._unread

    def ring(self) -> None:
        """From any thread; nothing after `close`."""
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
