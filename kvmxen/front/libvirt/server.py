"""The server of libvirt's RPC: a socket, a thread for each client, and one for the events."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kvmxen.domain.watch import Watch
from kvmxen.errors import KvmxenError
from kvmxen.front.libvirt.client import Client
from kvmxen.front.libvirt.host import Guest, Host
from kvmxen.front.libvirt.outbox import Outbox
from kvmxen.streams import say
from kvmxen.xenstore.server.listener import connect, listen, may_connect

_MOST_CLIENTS = 128
_CHUNK = 256 << 10


def default_socket() -> Path:
    """Where libvirt's clients look for the server of the scheme xen."""
    if os.geteuid() == 0:
        return Path("/run/libvirt/virtxend-sock")
    given = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Path(given) / "libvirt" / "virtxend-sock"


class Clients:
    """The clients of a server, all of which hear of the events."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self._watch = Watch(host.root)
        self._watching = threading.Thread(target=self._pass_on, name="events", daemon=True)
        self._watching.start()

    def __len__(self) -> int:
        return len(self._clients)

    def serve(self, receive: int, send: int, hang_up: Callable[[], None]) -> None:
        """Serve a client that writes to the descriptor `receive` and reads from `send`.

        `hang_up()` ends both for good.
        """
        outbox = Outbox(send, hang_up)
        client = Client(self.host, lambda: os.read(receive, _CHUNK), outbox, self._tell)
        with self._lock:
            self._clients.append(client)
        try:
            client.serve()
        finally:
            with self._lock:
                self._clients.remove(client)
            outbox.close()

    def close(self) -> None:
        """Watch no more."""
        self._watch.stop()
        self._watching.join()
        self._watch.close()

    def _all(self) -> list[Client]:
        with self._lock:
            return list(self._clients)

    def _pass_on(self) -> None:
        for identity, happening in self._watch:
            for client in self._all():
                client.happened(identity, happening)

    def _tell(self, guest: Guest, event: int, detail: int) -> None:
        for client in self._all():
            client.changed(guest.key, event, detail)


def autostart(host: Host) -> None:
    """Start the domains that are to be started with the server, and do not run."""
    for guest in host.guests():
        if guest.id == -1 and guest.definition is not None and guest.definition.autostart:
            try:
                host.start(guest, paused=False)
            except KvmxenError as error:
                say(f"cannot start {guest.name}: {error}")


def serve_stdio(host: Host) -> None:
    """Serve the client at standard input and output."""
    clients = Clients(host)
    try:
        clients.serve(0, 1, lambda: os._exit(1))
    finally:
        clients.close()


def serve_socket(host: Host, path: Path, timeout: float | None, ready: Callable[[], None]) -> None:
    """Serve clients at `path` until a signal ends the process; call `ready()` when it listens.

    With `timeout`, also until that many seconds have passed without a client. Raises KvmxenError
    if another server has the socket.
    """
    with _listening(path) as listener:
        clients = Clients(host)
        ready()
        autostart(host)
        busy = time.monotonic()
        try:
            while timeout is None or time.monotonic() < busy + timeout:
                readable, _, _ = select.select([listener], [], [], None if timeout is None else 1.0)
                if readable:
                    _accept(listener, clients)
                if clients:
                    busy = time.monotonic()
        finally:
            path.unlink(missing_ok=True)
            clients.close()


def _accept(listener: socket.socket, clients: Clients) -> None:
    try:
        connected, _ = listener.accept()
    except OSError:
        return
    if not may_connect(connected) or len(clients) >= _MOST_CLIENTS:
        connected.close()
        return
    connected.setblocking(True)
    threading.Thread(target=_serve, args=(connected, clients), daemon=True).start()


def _serve(connected: socket.socket, clients: Clients) -> None:
    def hang_up() -> None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    with connected:
        clients.serve(connected.fileno(), connected.fileno(), hang_up)


def _listening(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if path.exists() and not path.is_socket():
                raise KvmxenError(f"{path} is no socket: remove it, or give another --socket")
            _check_unused(path)
            path.unlink()
        return listen(path)
    except OSError as error:
        raise KvmxenError(f"cannot listen at {path}: {error.strerror}") from None


def _check_unused(path: Path) -> None:
    """Raise KvmxenError if a server listens at `path`."""
    try:
        connect(path).close()
    except ConnectionRefusedError:
        return
    raise KvmxenError(f"another server listens at {path}: stop it, or give another --socket")
