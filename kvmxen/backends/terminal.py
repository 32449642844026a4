"""The terminals that a console can use: this process's own, a pty, a file, or none."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType

from kvmxen.config import ConsoleSpec
from kvmxen.errors import KvmxenError
from kvmxen.streams import ends_lines_for_raw, say

# Ctrl-], as in xl console and telnet.
ESCAPE = b"\x1d"
# The most unread output of a program's console, in bytes.
_UNREAD = 256 << 10


class ConsoleStream:
    """The far end of a console, for the program that holds the domain; it carries bytes both ways.

    The stream owns the two descriptors. `writes` is whether the guest gets what is typed.
    """

    def __init__(self, input_fd: int, output_fd: int, *, writes: bool = True) -> None:
        self.writes = writes
        self._input = open(input_fd, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._output = open(output_fd, "wb", buffering=0)  # noqa: SIM115
        self._ahead = b""

    def fileno(self) -> int:
        """The descriptor to wait on, with poll(2) and the like, until read() has something."""
        return self._input.fileno()

    def read(self, size: int = 1 << 16, timeout: float | None = None) -> bytes:
        """Read what the guest has written, up to `size` bytes, as soon as there is anything;
        nothing at the domain's end. Raises TimeoutError after `timeout` seconds."""
        if not self._ahead:
            poll = select.poll()
            poll.register(self._input, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(f"the guest wrote nothing in {timeout:g} seconds")
            return self._input.read(size) or b""
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def read_until(self, text: bytes, timeout: float | None = None) -> bytes:
        """Read up to and including `text`; if the domain ends first, whatever the guest wrote.
        Raises TimeoutError after `timeout` seconds, and then loses nothing."""
        end = None if timeout is None else time.monotonic() + timeout
        data = b""
        while text not in data:
            try:
                more = self.read(timeout=end and max(0.001, end - time.monotonic()))
            except TimeoutError:
                self._ahead = data
                raise
            if not more:
                return data
            data += more
        found = data.index(text) + len(text)
        self._ahead = data[found:]
        return data[:found]

    def write(self, data: bytes) -> None:
        """Type `data`; waits while the guest takes none. Raises BrokenPipeError after the
        domain's end."""
        while data:
            data = data[self._output.write(data) :]

    def close(self) -> None:
        """Leave the console; later output of the guest is lost."""
        self._input.close()
        self._output.close()


def stream_of(connected: socket.socket, *, writes: bool) -> ConsoleStream:
    """The stream of a console at the other end of `connected`, which it then owns."""
    fd = connected.detach()
    return ConsoleStream(fd, os.dup(fd), writes=writes)


class PlainTerminal:
    """Two descriptors, either of which may be missing; others can open the terminal at `path`.

    If it is `lossy`, output that nobody reads is lost. `stream` is the far end, if this program
    holds it. A `raw` terminal is a person's: its input is read even if the guest does not take it,
    as it may contain the escape key, and "\\n" only moves the cursor down.
    """

    lossy = False
    raw = False
    path = ""
    stream: ConsoleStream | None = None

    def __init__(self, input_fd: int | None, output_fd: int | None) -> None:
        self.input_fd = input_fd
        self.output_fd = output_fd

    def filter_input(self, data: bytes) -> bytes:
        """Pass everything on."""
        return data

    def restore(self) -> None:
        """Leave it as it was found."""


class StdioTerminal(PlainTerminal):
    """The terminal at standard input, and standard output. The escape key does not reach the
    guest but calls `escaped()`; `restore()` ends the terminal's raw mode."""

    raw = True

    def __init__(self, escaped: Callable[[], None], restore: Callable[[], None]) -> None:
        super().__init__(0, 1)
        self._escaped = escaped
        self._restore = restore

    def filter_input(self, data: bytes) -> bytes:
        """Pass on everything but the escape key."""
        for _ in range(data.count(ESCAPE)):
            self._escaped()
        return data.replace(ESCAPE, b"")

    def restore(self) -> None:
        """Leave it as it was found."""
        self._restore()


class PtyTerminal(PlainTerminal):
    """A pseudo-terminal, which another program can open at `path`."""

    lossy = True

    def __init__(self) -> None:
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self.path = os.ttyname(slave)
        # Held open, so that the master does not hang up between two users.
        self._slave = slave
        super().__init__(master, master)

    def close(self) -> None:
        """Close both ends."""
        os.close(self._slave)
        if self.input_fd is not None:
            os.close(self.input_fd)


class ProgramTerminal(PlainTerminal):
    """A console for this program itself, which holds its far end, `stream`.

    The guest waits while _UNREAD bytes are unread.

    Pipes, not a socket: the loop can watch each direction on its own, and a pipe does not fill up
    sooner if the guest writes little at a time.
    """

    def __init__(self) -> None:
        input_fd, typed = os.pipe()
        written, output_fd = os.pipe()
        with suppress(OSError):
            # Exceeding this user's limit is no reason to fail.
            fcntl.fcntl(output_fd, fcntl.F_SETPIPE_SZ, _UNREAD)
        self._near = (input_fd, output_fd)
        self.stream = ConsoleStream(written, typed)
        super().__init__(input_fd, output_fd)

    def close(self) -> None:
        """Hang up; `stream` can still read what was written."""
        for fd in self._near:
            os.close(fd)


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Put the terminal at standard input, if there is one, into raw mode for the time of the
    context; "\\n" on stderr then moves the cursor to a new line all the same."""
    if not os.isatty(0):
        yield
        return
    with _raw(0), ends_lines_for_raw():
        yield


@contextmanager
def open_terminal(
    spec: ConsoleSpec, escaped: Callable[[], None] | None = None
) -> Iterator[PlainTerminal]:
    """Open the terminal that `spec` asks for, in the state that it needs; restore it afterwards.

    A terminal at standard input is a person's if `escaped` is given: see StdioTerminal. Raises
    KvmxenError if the file cannot be opened.
    """
    match spec.kind:
        case "stdio" if escaped is not None and os.isatty(0):
            with _raw(0) as restore, ends_lines_for_raw():
                yield StdioTerminal(escaped, restore)
        case "stdio":
            yield PlainTerminal(0, 1)
        case "pty":
            terminal = PtyTerminal()
            try:
                say(f"the console is {terminal.path}")
                yield terminal
            finally:
                terminal.close()
        case "file":
            assert spec.path is not None
            try:
                fd = os.open(spec.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise KvmxenError(
                    f"cannot open the console file {spec.path}: {error.strerror}; choose another"
                ) from None
            try:
                yield PlainTerminal(None, fd)
            finally:
                os.close(fd)
        case "none":
            yield PlainTerminal(None, None)
        case "program":
            with closing(ProgramTerminal()) as program:
                yield program


def terminal_size(spec: ConsoleSpec) -> os.terminal_size | None:
    """The size of the terminal that `spec` asks for, if it has one and a person uses it."""
    if spec.kind != "stdio" or not os.isatty(0):
        return None
    with suppress(OSError):
        size = os.get_terminal_size(0)
        if all(size):
            return size
    return None


@contextmanager
def _raw(fd: int) -> Iterator[Callable[[], None]]:
    """Put the terminal `fd` into raw mode, except while a shell has stopped the process; yield
    the function that ends it. Do nothing if `fd` is not a terminal (any more)."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield lambda: None
        return

    def set_raw(*_: int | FrameType | None) -> None:
        # A terminal that hangs up sends SIGCONT too, and accepts no settings any more.
        with suppress(termios.error):
            if _in_foreground(fd):
                tty.setraw(fd, termios.TCSANOW)

    def restore() -> None:
        # The terminal may be gone, or another process's by now.
        with suppress(termios.error):
            if _in_foreground(fd):
                termios.tcsetattr(fd, termios.TCSANOW, before)

    def stop(*_: int | FrameType | None) -> None:
        restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    handlers = {signal.SIGTSTP: stop, signal.SIGCONT: set_raw}
    handlers_before = {n: signal.signal(n, handler) for n, handler in handlers.items()}
    try:
        set_raw()
        yield restore
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        restore()


def _in_foreground(fd: int) -> bool:
    """Whether this process may change the terminal `fd` without being stopped."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        # `fd` is not this process's controlling terminal.
        return True
