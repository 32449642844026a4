"""xenstore on a Unix socket, for host tools: privileged clients, in a thread of the server's own.

The protocol is that of the guest's ring (xen/include/public/io/xs_wire.h). If XENSTORED_PATH is
set, libxenstore's clients find the same as on Xen.
"""

from __future__ import annotations

import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.server.listener import listen, may_connect
from kvmxen.xenstore.server.protocol import BUSY
from kvmxen.xenstore.server.pump import Pump
from kvmxen.xenstore.store import Store

HELD_BYTES = 4 << 20
# Descriptors that clients leave to the domain, for its disks and other devices to attach; half of
# them if there are few.
_RESERVE = 128
# The bytes that the kernel buffers for a client in addition, whatever this host's default.
_KERNEL_BYTES = 128 << 10
_RETRY_MS = 1000
_FOREVER = -1


class Server:
    """Serves `store` at the socket `path` within its context. Raises OSError.

    Processes of our own user and of root may connect, as many as there are descriptors for. The
    server answers one more with BUSY and disconnects it; it silently disconnects a client that
    leaves more than `held` bytes unread. On an error of ours it calls `failed(error)` in its
    thread, and ends.
    """

    def __init__(
        self,
        store: Store,
        path: Path,
        failed: Callable[[BaseException], None],
        held: int = HELD_BYTES,
    ) -> None:
        self._store = store
        self._path = path
        self._failed = failed
        self._held = held
        self._clients: dict[int, socket.socket] = {}
        self._accepting = False
        self._closed_until = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="xenstored", daemon=True)
        self._listener = listen(path)
        self._pump = Pump()

    def __enter__(self) -> Server:
        self._accept(True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._pump.wake()
        self._thread.join()
        for descriptor in list(self._clients):
            self._let_go(descriptor)
        self._path.unlink(missing_ok=True)
        self._listener.close()
        self._pump.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:
            self._failed(error)

    def _turn(self) -> None:
        for descriptor in self._pump.turn(_FOREVER if self._accepting else _RETRY_MS):
            if descriptor == self._listener.fileno():
                self._greet()
            else:
                self._let_go(descriptor)
        if not self._accepting and time.monotonic() >= self._closed_until:
            self._accept(True)

    def _greet(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            # Probably the domain has used up the reserve: new clients have to wait.
            self._closed_until = time.monotonic() + _RETRY_MS / 1000
            self._accept(False)
            return
        if not may_connect(connected):
            connected.close()
            return
        # A socket gets the lowest free number, whoever has the others.
        if connected.fileno() >= _descriptors():
            with connected, suppress(OSError):
                connected.send(BUSY.encode())
            return
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        self._pump.add(connected.fileno(), partial(self._store.connect, DOM0), self._held)
        self._clients[connected.fileno()] = connected

    def _accept(self, accepting: bool) -> None:
        if accepting == self._accepting:
            return
        self._accepting = accepting
        if accepting:
            self._pump.watch(self._listener.fileno())
        else:
            self._pump.unwatch(self._listener.fileno())

    def _let_go(self, descriptor: int) -> None:
        self._pump.remove(descriptor)
        self._clients.pop(descriptor).close()


def _descriptors() -> int:
    """The lowest descriptor number that no client may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(_RESERVE, limit // 2)
