"""The domain's side of its control socket: a thread that listens, one for each who asks."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvmxen.control.protocol import (
    MAX_REQUEST,
    SOCKET,
    ProtocolError,
    parse_request,
    read_line,
    write_line,
)
from kvmxen.errors import KvmxenError
from kvmxen.xenstored.listener import listen, may_connect

# Who connects and then says nothing keeps one of these for so long.
_PATIENCE_S = 10.0
_AT_ONCE = 16

Commands = Mapping[str, Callable[..., Any]]


class ControlServer:
    """Serves `commands`, each called with the request's arguments, in `folder` for the time of
    the context. `fail(error)` is for errors that are ours."""

    def __init__(
        self, folder: Path, commands: Commands, fail: Callable[[BaseException], None]
    ) -> None:
        self._commands = commands
        self._fail = fail
        self._path = folder / SOCKET
        self._busy = threading.Semaphore(_AT_ONCE)
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
            except OSError:
                continue
            if may_connect(connected) and self._busy.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connected,), daemon=True).start()
            else:
                connected.close()

    def _serve(self, connected: socket.socket) -> None:
        try:
            with connected, suppress(OSError):
                connected.settimeout(_PATIENCE_S)
                write_line(connected, self._answer(connected))
        except BaseException as error:
            self._fail(error)
        finally:
            self._busy.release()

    def _answer(self, connected: socket.socket) -> dict[str, Any]:
        try:
            command, arguments = parse_request(read_line(connected, MAX_REQUEST))
            if command not in self._commands:
                raise KvmxenError(f"this domain knows no {command}: it is of another version")
            return {"done": self._commands[command](*arguments)}
        except (KvmxenError, ProtocolError) as error:
            return {"error": str(error)}
