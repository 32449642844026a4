"""What waits to be sent to a client, so that one that does not read delays no other."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

# Bytes that may wait; the largest message fits, and some events.
_ROOM = 48 << 20


class Outbox:
    """Sends messages to the descriptor `fd` in a thread of its own; any thread may put them in.

    `hang_up()` disconnects a client that has fallen behind.
    """

    def __init__(self, fd: int, hang_up: Callable[[], None]) -> None:
        self._fd = fd
        self._hang_up = hang_up
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="libvirt outbox", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Send `data`; waits for room. Raises BrokenPipeError after the client has gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._size + len(data) <= _ROOM)
            self._add(data)

    def put_or_hang_up(self, data: bytes) -> None:
        """Send `data`; if there is no room for it, disconnect the client."""
        with self._changed:
            if self._closed:
                return
            if self._size + len(data) <= _ROOM:
                self._add(data)
                return
            self._close()
        self._hang_up()

    def close(self) -> None:
        """Send what waits, if the client reads it soon, and end; hang up if it does not."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._waiting, timeout=1.0)
            self._close()
        self._thread.join(0.1)
        if self._thread.is_alive():
            # It is in write(2), where only a hang-up reaches it.
            self._hang_up()
            self._thread.join()

    def _add(self, data: bytes) -> None:
        if self._closed:
            raise BrokenPipeError("the client has gone")
        self._waiting.append(data)
        self._size += len(data)
        self._changed.notify_all()

    def _close(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._waiting))
                if self._closed:
                    return
                data = self._waiting[0]
            try:
                self._send(data)
            except OSError:
                with self._changed:
                    self._close()
                return
            with self._changed:
                if self._waiting:
                    self._waiting.popleft()
                    self._size -= len(data)
                self._changed.notify_all()

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
