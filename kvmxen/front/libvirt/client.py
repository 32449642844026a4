"""One client of the server: its calls, its events, its console streams."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from kvmxen.backends.terminal import ConsoleStream
from kvmxen.domain.events import Event, Happening
from kvmxen.domain.record import Identity
from kvmxen.domain.remote import RemoteDomain
from kvmxen.errors import KvmxenError, UsageError, shortage
from kvmxen.front.libvirt.events import EventId, lifecycle
from kvmxen.front.libvirt.host import Guest, Host
from kvmxen.front.libvirt.outbox import Outbox
from kvmxen.front.libvirt.procedures import EVENT_LIFECYCLE, EVENT_REBOOT, PROCEDURES
from kvmxen.front.libvirt.upload import Upload
from kvmxen.front.libvirt.wire import (
    DOMAIN,
    KEEPALIVE,
    PING,
    PONG,
    REMOTE,
    VERSION,
    Code,
    Failure,
    Frames,
    FramingError,
    Kind,
    Message,
    Status,
    error,
)
from kvmxen.front.libvirt.xdr import INT, Reader, Struct, XdrError
from kvmxen.streams import say

# Calls of one client that are answered at once, and those that may wait.
_AT_ONCE = 4
_WAITING = 64
_MOST_CALLBACKS = 64
_MOST_STREAMS = 16
_CHUNK = 32 << 10
# How long a guest may take for what is typed, in s.
_TYPING_S = 5.0
_LIFECYCLE = Struct(INT, DOMAIN, INT, INT)
_REBOOT = Struct(INT, DOMAIN)


class Client:
    """Serves one connection, whose bytes come by `receive()` and go by `outbox`.

    `tell(guest, event, detail)` gives all clients a lifecycle event that this one has caused.
    """

    def __init__(
        self,
        host: Host,
        receive: Callable[[], bytes],
        outbox: Outbox,
        tell: Callable[[Guest, int, int], None],
    ) -> None:
        self.host = host
        self._receive = receive
        self._outbox = outbox
        self._tell = tell
        self._callbacks: dict[int, tuple[int, bytes | None]] = {}
        self._last_callback = -1
        # By the serial number of the call that opened the stream.
        self._consoles: dict[int, ConsoleStream] = {}
        self._uploads: dict[int, Upload] = {}
        self._calls = ThreadPoolExecutor(_AT_ONCE, "libvirt call")
        self._places = threading.Semaphore(_WAITING)
        self._call = threading.local()

    def serve(self) -> None:
        """Answer until the client leaves; other threads may call `happened` and `tell`."""
        frames = Frames()
        try:
            while data := self._receive():
                for message in frames.feed(data):
                    self._take(message)
        except (OSError, FramingError):
            pass
        finally:
            for stream in list(self._consoles.values()):
                self._hang_up(stream)
            for upload in list(self._uploads.values()):
                upload.close()
            self._calls.shutdown(wait=False, cancel_futures=True)

    def _take(self, message: Message) -> None:
        if message.program == KEEPALIVE:
            if message.procedure == PING:
                self._send(
                    Message(KEEPALIVE, VERSION, PONG, Kind.MESSAGE, message.serial, Status.OK)
                )
        elif message.kind == Kind.STREAM:
            self._take_part(message)
        elif message.kind == Kind.CALL:
            # A client that asks faster than it is answered has to wait.
            self._places.acquire()
            self._calls.submit(self._answer, message)

    def _answer(self, call: Message) -> None:
        self._call.message = call
        self._call.then = lambda: None
        try:
            self._send(self._performed(call))
            self._call.then()
        except OSError:
            # The client has gone.
            pass
        finally:
            self._places.release()

    def _performed(self, call: Message) -> Message:
        procedure = PROCEDURES.get(call.procedure)
        if call.program != REMOTE or procedure is None:
            return _failed(call, Code.NO_SUPPORT, "this function is not supported by kvmxen")
        try:
            arguments = procedure.arguments.read(Reader(call.payload))
            values = procedure.function(self, *arguments)
            return call.answer(Status.OK, procedure.answer.write(values))
        except XdrError as fault:
            return _failed(call, Code.RPC, f"{procedure.name}: {fault}")
        except Failure as failure:
            return _failed(call, failure.code, str(failure))
        except UsageError as fault:
            return _failed(call, Code.INVALID, str(fault))
        except KvmxenError as fault:
            return _failed(call, Code.FAILED, str(fault))
        except OSError as fault:
            what = f"{fault.filename or procedure.name}: {fault.strerror or fault}"
            return _failed(call, Code.FAILED, shortage(fault) or what)
        except Exception as fault:
            text = f"internal error: {type(fault).__name__}: {fault}; please report it"
            say(f"{procedure.name} failed by an {text}")
            return _failed(call, Code.INTERNAL, text)

    def _send(self, message: Message) -> None:
        self._outbox.put(message.encode())

    # Events.

    def register(self, event: int, domain: bytes | None) -> int:
        """Ask for the events of that id, of the domain of that UUID or of all; returns an id."""
        if len(self._callbacks) >= _MOST_CALLBACKS:
            raise Failure(Code.FAILED, "this client has too many callbacks")
        self._last_callback += 1
        self._callbacks[self._last_callback] = event, domain
        return self._last_callback

    def deregister(self, callback: int) -> None:
        """Ask for them no more."""
        if self._callbacks.pop(callback, None) is None:
            raise Failure(Code.INVALID, f"there is no callback {callback}")

    def lifecycle(self, guest: Guest, event: int, detail: int) -> None:
        """Tell all clients of a change of the definitions."""
        self._tell(guest, event, detail)

    def happened(self, identity: Identity, happening: Happening) -> None:
        """Pass on an event of a domain."""
        ended = happening.event is Event.ENDED
        key = identity.name, identity.uuid.bytes, -1 if ended else identity.id
        if happening.event is Event.REBOOTED:
            for callback in self._wanting(EventId.REBOOT, key[1]):
                self._event(EVENT_REBOOT, _REBOOT.write((callback, key)))
        if known := lifecycle(happening):
            self.changed(key, *known)

    def changed(self, key: tuple[str, bytes, int], event: int, detail: int) -> None:
        """Send a lifecycle event, if the client has asked for it."""
        for callback in self._wanting(EventId.LIFECYCLE, key[1]):
            self._event(EVENT_LIFECYCLE, _LIFECYCLE.write((callback, key, event, detail)))

    def _wanting(self, event: EventId, uuid: bytes) -> list[int]:
        return [
            callback
            for callback, (wanted, domain) in list(self._callbacks.items())
            if wanted == event and domain in (None, uuid)
        ]

    def _event(self, procedure: int, payload: bytes) -> None:
        message = Message(REMOTE, VERSION, procedure, Kind.MESSAGE, 0, Status.OK, payload)
        self._outbox.put_or_hang_up(message.encode())

    # Streams.

    def open_console(self, domain: RemoteDomain, *, force: bool) -> None:
        """Open a stream to a console, for the call that is being answered."""
        self._check_streams()
        stream = domain.open_console(force=force)
        if not stream.writes:
            stream.close()
            raise Failure(
                Code.FAILED,
                f"the console of {domain.name} is in use: leave it there, or use --force",
            )
        call: Message = self._call.message
        self._consoles[call.serial] = stream
        reader = threading.Thread(target=self._show, args=(call, stream), daemon=True)
        # The stream's parts follow the answer.
        self._call.then = reader.start

    def open_upload(self, path: Path, offset: int, length: int) -> None:
        """Open a stream into a file, for the call that is being answered."""
        self._check_streams()
        self._uploads[self._call.message.serial] = Upload(path, offset, length)

    def _check_streams(self) -> None:
        if len(self._consoles) + len(self._uploads) >= _MOST_STREAMS:
            raise Failure(Code.FAILED, "this client has too many streams")

    def _show(self, call: Message, stream: ConsoleStream) -> None:
        with suppress(OSError, ValueError):
            while data := stream.read(_CHUNK):
                self._send(call.part(Status.CONTINUE, data))
            # The end of the domain, unless the client has left.
            if call.serial in self._consoles:
                self._send(call.part(Status.CONTINUE))

    def _take_part(self, part: Message) -> None:
        if part.serial in self._uploads:
            self._take_upload(part)
            return
        stream = self._consoles.get(part.serial)
        if stream is None:
            return
        answer = part.part(Status.OK)
        if part.status == Status.CONTINUE:
            if _type(stream, part.payload):
                return
            text = "the guest does not take what is typed"
            answer = part.part(Status.ERROR, error(Code.FAILED, text))
        # The client finishes (ok) or aborts (error), or is left.
        del self._consoles[part.serial]
        self._hang_up(stream)
        self._send(answer)

    def _take_upload(self, part: Message) -> None:
        upload = self._uploads[part.serial]
        answer = part.part(Status.OK)
        if part.status == Status.CONTINUE:
            try:
                upload.write(part.payload)
                return
            except Failure as failure:
                answer = part.part(Status.ERROR, error(failure.code, str(failure)))
        del self._uploads[part.serial]
        upload.close()
        self._send(answer)

    @staticmethod
    def _hang_up(stream: ConsoleStream) -> None:
        """End a stream that another thread may be reading."""
        with suppress(OSError, ValueError), _socket(stream) as connected:
            connected.shutdown(socket.SHUT_RDWR)


def _socket(stream: ConsoleStream) -> socket.socket:
    return socket.socket(fileno=os.dup(stream.fileno()))


def _type(stream: ConsoleStream, data: bytes) -> bool:
    """Type `data`; returns False if the guest does not take it soon: other calls wait for this."""
    end = time.monotonic() + _TYPING_S
    with suppress(OSError, ValueError), _socket(stream) as connected:
        poll = select.poll()
        poll.register(connected, select.POLLOUT)
        while data:
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return False
            with suppress(BlockingIOError):
                data = data[connected.send(data, socket.MSG_DONTWAIT) :]
    return True


def _failed(call: Message, code: Code, text: str) -> Message:
    return call.answer(Status.ERROR, error(code, text))
