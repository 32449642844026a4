"""The terminals that a console can have: this process's own, a pty, a file, none."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType

from kvmxen.config import ConsoleSpec
from kvmxen.errors import KvmxenError
from kvmxen.streams import ends_lines_for_raw, say

# Ctrl-], as xl console and telnet have it.
ESCAPE = b"\x1d"
# How much of a program's console may wait to be read, in bytes.
_UNREAD = 256 << 10


class ConsoleStream:
    """A console's far end, for the program that holds the domain: bytes both ways.

    The guest waits while _UNREAD bytes have not been read. It owns the two descriptors.
    """

    def __init__(self, input_fd: int, output_fd: int) -> None:
        self._input = open(input_fd, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._output = open(output_fd, "wb", buffering=0)  # noqa: SIM115
        self._ahead = b""

    def fileno(self) -> int:
        """The descriptor that is readable when read() has something, for poll(2) and its like."""
        return self._input.fileno()

    def read(self, size: int = 1 << 16, timeout: float | None = None) -> bytes:
        """What the guest has written, up to `size` bytes, as soon as there is anything; nothing at
        the domain's end. Raises TimeoutError after `timeout` seconds."""
        if not self._ahead:
            poll = select.poll()
            poll.register(self._input, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(f"the guest wrote nothing in {timeout:g} seconds")
            return self._input.read(size) or b""
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def read_until(self, text: bytes, timeout: float | None = None) -> bytes:
        """All that the guest writes up to `text`, and that; what it wrote at all if the domain ends
        before. Raises TimeoutError after `timeout` seconds, and then nothing is lost."""
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
        """Type `data`; waits while the guest takes none. BrokenPipeError after the domain's end."""
        while data:
            data = data[self._output.write(data) :]

    def close(self) -> None:
        """Leave the console: what the guest writes from now on is lost."""
        self._input.close()
        self._output.close()


class PlainTerminal:
    """Two descriptors, either of which may be missing; `path` is where others can open it.

    `lossy` output is lost if nobody reads it. `stream` is the far end, if this program has that. A
    `raw` one is a person's terminal: what is typed is read whether the guest takes it or not, as
    the escape key may be in it, and "\\n" only moves the cursor down.
    """

    lossy = False
    raw = False
    path = ""
    stream: ConsoleStream | None = None

    def __init__(self, input_fd: int | None, output_fd: int | None) -> None:
        self.input_fd = input_fd
        self.output_fd = output_fd

    def filter_input(self, data: bytes) -> bytes:
        """All of it."""
        return data

    def restore(self) -> None:
        """Leave it as it was found."""


class StdioTerminal(PlainTerminal):
    """The terminal at standard input, and standard output; `escaped()` is called for the escape
    key, which the guest does not get; `restore()` ends the terminal's raw mode."""

    raw = True

    def __init__(self, escaped: Callable[[], None], restore: Callable[[], None]) -> None:
        super().__init__(0, 1)
        self._escaped = escaped
        self._restore = restore

    def filter_input(self, data: bytes) -> bytes:
        """All but the escape key."""
        for _ in range(data.count(ESCAPE)):
            self._escaped()
        return data.replace(ESCAPE, b"")

    def restore(self) -> None:
        """Leave it as it was found."""
        self._restore()


class PtyTerminal(PlainTerminal):
    """A pseudo-terminal for another program to open at `path`."""

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
    """A console of this program's own, at whose far end `stream` is.

    Pipes, not a socket: the loop can watch each direction on its own, and a pipe does not fill up
    sooner when the guest writes little at a time.
    """

    def __init__(self) -> None:
        input_fd, typed = os.pipe()
        written, output_fd = os.pipe()
        with suppress(OSError):
            # More than this user may have is no reason to fail.
            fcntl.fcntl(output_fd, fcntl.F_SETPIPE_SZ, _UNREAD)
        self._near = (input_fd, output_fd)
        self.stream = ConsoleStream(written, typed)
        super().__init__(input_fd, output_fd)

    def close(self) -> None:
        """Hang up: `stream` still has what was written."""
        for fd in self._near:
            os.close(fd)


@contextmanager
def open_terminal(
    spec: ConsoleSpec, escaped: Callable[[], None] | None = None
) -> Iterator[PlainTerminal]:
    """The terminal that `spec` asks for, in the state that it needs; as it was, afterwards.

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
    """The size of the terminal that `spec` asks for, if a person sits at it and it has one."""
    if spec.kind != "stdio" or not os.isatty(0):
        return None
    with suppress(OSError):
        size = os.get_terminal_size(0)
        if all(size):
            return size
    return None


@contextmanager
def _raw(fd: int) -> Iterator[Callable[[], None]]:
    """Raw mode for the terminal `fd`, but while a shell has the process stopped, and what ends it;
    nothing for what is none (any more)."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield lambda: None
        return

    def set_raw(*_: int | FrameType | None) -> None:
        # A terminal that hangs up sends SIGCONT, too, and takes no settings any more.
        with suppress(termios.error):
            if _in_foreground(fd):
                tty.setraw(fd, termios.TCSANOW)

    def restore() -> None:
        # It may be gone, or another's by now.
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
    """Whether this process may set the terminal `fd` without being stopped for it."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        # Not the terminal that controls this process.
        return True
