"""The console backend: the guest's two byte rings, with a terminal at the other end.

It runs in the domain's loop. Output that the terminal does not take stays in the ring, so a
slow terminal slows the guest; only a pty that nobody reads loses its oldest output. Viewers in
other processes see what the guest writes and may type, whatever the terminal is.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from kvmxen.backends.loop import Watcher
from kvmxen.backends.viewers import Viewers
from kvmxen.kvm.memory import GuestMemory
from kvmxen.ring.byte_ring import RingBroken, RingReader, RingWriter
from kvmxen.streams import say
from kvmxen.xen.abi.io_console import (
    IN_CONS,
    IN_PROD,
    INPUT,
    INPUT_SIZE,
    OUT_CONS,
    OUT_PROD,
    OUTPUT,
    OUTPUT_SIZE,
)

TAIL_BYTES = 8192
# The most emergency writes to hold; beyond that the oldest are lost.
_EMERGENCY_WRITES = 256
# After poll(2), a write of up to PIPE_BUF bytes does not block.
_CHUNK = 2048
# The most chunks of one pump, so that a guest that never stops does not monopolize the loop.
_CHUNKS = 16
# How long the last output waits for the terminal to take it.
_LAST_MS = 1000
# The most input that waits for the guest, in bytes; more is lost.
_TYPED_AHEAD = 1 << 20


class Terminal(Protocol):
    """A console's terminal; `input_fd` and `output_fd` are None if it lacks that direction.

    See kvmxen.backends.terminal.PlainTerminal for `lossy` and `raw`.
    """

    input_fd: int | None
    output_fd: int | None
    lossy: bool
    raw: bool

    def filter_input(self, data: bytes) -> bytes:
        """The part of `data` that the guest gets."""


class Console:
    """Serves the console page at `gpa`; `notify()` sends the guest an event.

    `viewers` outlive it: they see the guest's next run too.
    """

    def __init__(
        self,
        memory: GuestMemory,
        gpa: int,
        notify: Callable[[], None],
        terminal: Terminal,
        loop: Watcher,
        viewers: Viewers,
    ) -> None:
        self._output = RingReader(memory, gpa + OUTPUT, OUTPUT_SIZE, gpa + OUT_CONS, gpa + OUT_PROD)
        self._input = RingWriter(memory, gpa + INPUT, INPUT_SIZE, gpa + IN_CONS, gpa + IN_PROD)
        self._notify = notify
        self._terminal = terminal
        self._loop = loop
        self._viewers = viewers
        viewers.keyboard = self
        # The one before may not have taken all that was typed.
        viewers.has_room()
        self._typed = bytearray()
        self._reading = self._writing = False
        self._complained = False
        self._waiting = b""
        self._emergency: deque[bytes] = deque(maxlen=_EMERGENCY_WRITES)
        self._tail = bytearray()
        self._patience_ms = 0
        self._over = False
        self._watch_input()

    def close(self) -> None:
        """Write the remaining output after the guest has stopped, and leave the terminal."""
        self._patience_ms = 0 if self._terminal.lossy else _LAST_MS
        with suppress(RingBroken):
            while not self._over and self._pump_output():
                pass
        # Callbacks posted earlier must do nothing: the terminal may have its next guest.
        self._over = True
        self._viewers.keyboard = None
        self._unwatch_input()
        self._unwatch_output()

    @property
    def takes_input(self) -> bool:
        """Whether input would not have to wait for long."""
        return len(self._typed) < INPUT_SIZE

    def type(self, data: bytes) -> None:
        """Give the guest `data`, which a viewer typed."""
        self._typed += data
        self.pump()

    @property
    def tail(self) -> bytes:
        """The last TAIL_BYTES of the guest's output."""
        return bytes(self._tail)

    def emergency(self, data: bytes) -> None:
        """Write `data`, which did not come through the ring; callable from any thread."""
        self._emergency.append(data.replace(b"\n", b"\r\n") if self._terminal.raw else data)
        self.ring()

    def ring(self) -> None:
        """Make the loop move data; callable from any thread."""
        self._loop.post(self.pump)

    def pump(self) -> None:
        """Move data both ways as far as possible."""
        if self._over:
            return
        try:
            if self._pump_output():
                self._loop.post(self.pump)
            if self._typed:
                self._pump_input()
        except RingBroken:
            # The guest broke its own console; its other devices continue.
            self._over = True

    def _pump_output(self) -> bool:
        """Write a bounded amount of output; return whether there may be more."""
        more = moved = False
        for _ in range(_CHUNKS):
            if not self._waiting:
                self._waiting = (
                    self._emergency.popleft() if self._emergency else self._output.read(_CHUNK)
                )
                if self._waiting:
                    moved = True
                    self._tail += self._waiting
                    del self._tail[:-TAIL_BYTES]
                    self._viewers.written(self._waiting)
            if not self._waiting:
                break
            if not self._write():
                break
        else:
            more = True
        if moved:
            self._notify()
        return more

    def _write(self) -> bool:
        """Write some of the waiting output; return False if the terminal does not take it now."""
        fd = self._terminal.output_fd
        if fd is None:
            self._waiting = b""
            return True
        if self._takes_output(fd):
            try:
                count = os.write(fd, self._waiting[:_CHUNK])
            except BlockingIOError:
                # A pty has less room than this write needs, or another process made the descriptor
                # non-blocking.
                pass
            except OSError as error:
                self._lose(error)
                return True
            else:
                self._waiting = self._waiting[count:]
                return True
        if self._terminal.lossy:
            self._waiting = b""
            return True
        self._wait_for(fd)
        return False

    def _lose(self, error: OSError) -> None:
        """Drop the output, and let the guest continue: a disk may have room again, a FIFO
        another reader."""
        self._waiting = b""
        if not self._complained:
            self._complained = True
            gone = isinstance(error, BrokenPipeError)
            why = "the reader has gone" if gone else error.strerror
            say(f"console output is lost until it can be written again: {why}")

    def _takes_output(self, fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        return bool(poll.poll(self._patience_ms))

    def _wait_for(self, fd: int) -> None:
        if not self._writing:
            self._writing = True
            self._loop.watch(fd, False, self._writable)

    def _writable(self) -> None:
        self._unwatch_output()
        self.pump()

    def _unwatch_output(self) -> None:
        if self._terminal.output_fd is not None and self._writing:
            self._writing = False
            self._loop.unwatch(self._terminal.output_fd)

    def _watch_input(self) -> None:
        fd = self._terminal.input_fd
        if fd is not None and not self._reading:
            self._reading = True
            self._loop.watch(fd, True, self._readable)

    def _unwatch_input(self) -> None:
        if self._terminal.input_fd is not None and self._reading:
            self._reading = False
            self._loop.unwatch(self._terminal.input_fd)

    def _readable(self) -> None:
        fd = self._terminal.input_fd
        if fd is None:
            return
        try:
            data = os.read(fd, INPUT_SIZE)
        except BlockingIOError:
            return
        except OSError:
            # A terminal that hung up, a directory, or a descriptor open for writing only.
            data = b""
        if not data and not self._terminal.lossy:
            self._unwatch_input()
            self._terminal.input_fd = None
            return
        self._typed += self._terminal.filter_input(data)
        if self._terminal.raw:
            del self._typed[_TYPED_AHEAD:]
        elif not self.takes_input:
            # The writer at the other end then waits.
            self._unwatch_input()
        self.pump()

    def _pump_input(self) -> None:
        count = self._input.write(self._typed[: self._input.free])
        if count:
            del self._typed[:count]
            self._notify()
            if self.takes_input:
                self._watch_input()
                self._viewers.has_room()
