"""The domain's side of its control socket: a thread that listens, and one for each client."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmxen.domain.control.protocol import (
    MAX_REQUEST,
    SOCKET,
    ProtocolError,
    parse,
    read_line,
    write_line,
)
from kvmxen.errors import KvmxenError, shortage
from kvmxen.streams import say
from kvmxen.xenstore.server.listener import listen, may_connect

if TYPE_CHECKING:
    from kvmxen.domain.control.requests import Request

# How long a silent client keeps one of the _AT_ONCE places, in s.
_PATIENCE_S = 10.0
_AT_ONCE = 64
_RETRY_S = 1.0
# How long answers may still take when the domain ends, in s.
_LAST_S = 1.0


class ControlServer:
    """Serves requests in `folder` for the time of the context, by `do(request, sockets)`.

    `sockets` came with the request; `do` keeps those that it takes off the list. Several threads
    call `do` at once. Its exceptions go to the client, internal errors to stderr
    too: no request ends the domain.
    """

    def __init__(self, folder: Path, do: Callable[[Request, list[socket.socket]], object]) -> None:
        self._do = do
        self._path = folder / SOCKET
        self._busy = threading.Semaphore(_AT_ONCE)
        self._answering: set[threading.Thread] = set()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self._listener = listen(self._path)
        except OSError as error:
            os.close(self._stop)
            raise KvmxenError(f"cannot listen at {self._path}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)

    def __enter__(self) -> ControlServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        # A client that waits for the end must receive it.
        end = time.monotonic() + _LAST_S
        for answering in list(self._answering):
            answering.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        os.close(self._stop)
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while self._stop not in {fd for fd, _ in poll.poll()}:
            try:
                connected, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError:
                # Too many open files, most likely: clients have to wait.
                select.select([self._stop], [], [], _RETRY_S)
                continue
            if not may_connect(connected) or not self._busy.acquire(blocking=False):
                connected.close()
                continue
            try:
                answering = threading.Thread(target=self._serve, args=(connected,), daemon=True)
                self._answering.add(answering)
                answering.start()
            except RuntimeError:
                # The host has no thread for this client.
                self._answering.discard(answering)
                self._busy.release()
                connected.close()

    def _serve(self, connected: socket.socket) -> None:
        try:
            with connected, suppress(OSError):
                connected.settimeout(_PATIENCE_S)
                write_line(connected, self._reply(connected))
        finally:
            self._answering.discard(threading.current_thread())
            self._busy.release()

    def _reply(self, connected: socket.socket) -> dict[str, Any]:
        """Receive and perform a request; returns the reply; raises OSError as recv(2) does."""
        sockets: list[socket.socket] = []
        try:
            return self._answer(connected, sockets)
        except ImportError as error:
            return {"error": shortage(error)}
        finally:
            for unused in sockets:
                unused.close()

    def _answer(self, connected: socket.socket, sockets: list[socket.socket]) -> dict[str, Any]:
        # Most domains never get a request, and the types are costly to define.
        from kvmxen.domain.control.requests import DESCRIPTORS, RequestError, unpack

        try:
            request = unpack(parse(read_line(connected, MAX_REQUEST, sockets)))
        except (KvmxenError, ProtocolError, RequestError) as error:
            return {"error": str(error)}
        except RecursionError:
            return {"error": "the request is nested too deeply"}
        if len(sockets) != DESCRIPTORS.get(type(request), 0):
            return {"error": "the request comes with too many or too few descriptors"}
        try:
            return {"done": self._do(request, sockets)}
        except KvmxenError as error:
            return {"error": str(error)}
        except Exception as error:
            if sentence := shortage(error):
                return {"error": sentence}
            fault = f"internal error: {type(error).__name__}: {error}; please report it"
            say(f"a request failed by an {fault}")
            return {"error": fault}
