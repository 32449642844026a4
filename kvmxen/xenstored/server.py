"""xenstore on a Unix socket, for host tools: privileged clients, in a thread of the server's own.

The protocol is that of the guest's ring (xen/include/public/io/xs_wire.h), so that libxenstore's
clients find with XENSTORED_PATH what they find on Xen.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kvmxen.xenstore.connection import Connection
from kvmxen.xenstore.errors import ProtocolError
from kvmxen.xenstore.store import Store
from kvmxen.xenstored.channel import Channel, Overrun
from kvmxen.xenstored.listener import listen, may_connect

CLIENTS = 512
HELD_BYTES = 4 << 20
_RETRY_SECONDS = 1.0


@dataclass(eq=False)
class _Client:
    socket: socket.socket
    connection: Connection
    channel: Channel
    interest: int = select.EPOLLIN
    gone: bool = False


class Server:
    """Serves `store` at the socket `path` within its context. Raises OSError.

    Our own user's processes and root's may connect, `CLIENTS` at a time; one that leaves more
    than `held` bytes unread is let go. `failed(error)` is called in the server's thread for
    what is a fault of ours, which ends it.
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
        self._clients: dict[int, _Client] = {}
        self._woken: deque[_Client] = deque()
        self._accepting = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="xenstored", daemon=True)
        self._listener = listen(path)
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, select.EPOLLIN)

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
        os.eventfd_write(self._wakeup, 1)
        self._thread.join()
        for client in list(self._clients.values()):
            self._let_go(client)
        self._path.unlink(missing_ok=True)
        self._listener.close()
        self._epoll.close()
        os.close(self._wakeup)

    def _adopt(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connection = self._store.connect(wake=lambda: self._wake(client))
        client = _Client(connected, connection, Channel(connected, connection, self._held))
        self._clients[connected.fileno()] = client
        self._epoll.register(connected, client.interest)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:
            self._failed(error)

    def _turn(self) -> None:
        ready = self._epoll.poll(None if self._accepting else _RETRY_SECONDS)
        if not ready:
            self._accept(len(self._clients) < CLIENTS)
        for descriptor, events in ready:
            if descriptor == self._wakeup:
                os.eventfd_read(self._wakeup)
            elif descriptor == self._listener.fileno():
                self._greet()
            elif client := self._clients.get(descriptor):
                self._serve(client, readable=events != select.EPOLLOUT)
        while self._woken:
            client = self._woken.popleft()
            if not client.gone:
                self._serve(client, readable=False)

    def _serve(self, client: _Client, readable: bool) -> None:
        channel = client.channel
        try:
            if readable:
                channel.receive()
            channel.send()
        except (OSError, EOFError, ProtocolError, Overrun):
            self._let_go(client)
            return
        if channel.interest != client.interest:
            client.interest = channel.interest
            self._epoll.modify(client.socket, client.interest)

    def _wake(self, client: _Client) -> None:
        """From any thread: there is something for `client`."""
        self._woken.append(client)
        if threading.get_ident() != self._thread.ident:
            os.eventfd_write(self._wakeup, 1)

    def _greet(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            # Too many open files, most likely: who comes has to wait.
            self._accept(False)
            return
        if not may_connect(connected):
            connected.close()
            return
        self._adopt(connected)
        self._accept(len(self._clients) < CLIENTS)

    def _accept(self, accepting: bool) -> None:
        if accepting == self._accepting:
            return
        self._accepting = accepting
        if accepting:
            self._epoll.register(self._listener, select.EPOLLIN)
        else:
            self._epoll.unregister(self._listener)

    def _let_go(self, client: _Client) -> None:
        client.gone = True
        client.connection.close()
        del self._clients[client.socket.fileno()]
        client.socket.close()
        self._accept(True)
