"""The terminals that a console can have: this process's own, a pty, a file, none."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvmxen.config import ConsoleSpec
from kvmxen.errors import KvmxenError

# Ctrl-], as xl console and telnet have it.
ESCAPE = b"\x1d"


class PlainTerminal:
    """Two descriptors, either of which may be missing; `path` is where others can open it."""

    lossy = False
    path = ""

    def __init__(self, input_fd: int | None, output_fd: int | None) -> None:
        self.input_fd = input_fd
        self.output_fd = output_fd

    def filter_input(self, data: bytes) -> bytes:
        """All of it."""
        return data


class StdioTerminal(PlainTerminal):
    """Standard input and output; `escaped()` is called for the escape key, which the guest
    does not get."""

    def __init__(self, escaped: Callable[[], None]) -> None:
        super().__init__(0, 1)
        self._escaped = escaped

    def filter_input(self, data: bytes) -> bytes:
        """All but the escape key."""
        for _ in range(data.count(ESCAPE)):
            self._escaped()
        return data.replace(ESCAPE, b"")


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


@contextmanager
def open_terminal(spec: ConsoleSpec, escaped: Callable[[], None]) -> Iterator[PlainTerminal]:
    """The terminal that `spec` asks for, in the state that it needs; as it was, afterwards.

    Raises KvmxenError where the file cannot be opened.
    """
    match spec.kind:
        case "stdio":
            with _raw(0):
                yield StdioTerminal(escaped)
        case "pty":
            terminal = PtyTerminal()
            try:
                print(f"kvmxen: the console is {terminal.path}", file=sys.stderr, flush=True)
                yield terminal
            finally:
                terminal.close()
        case "file":
            assert spec.path is not None
            try:
                fd = os.open(spec.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise KvmxenError(
                    f"the console file {spec.path} cannot be opened: {error.strerror}; name another"
                ) from None
            try:
                yield PlainTerminal(None, fd)
            finally:
                os.close(fd)
        case "none":
            yield PlainTerminal(None, None)


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Raw mode for a terminal's input, output processing left on; nothing for what is none."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield
        return
    try:
        tty.setraw(fd, termios.TCSANOW)
        now = termios.tcgetattr(fd)
        now[1] |= termios.OPOST | termios.ONLCR
        termios.tcsetattr(fd, termios.TCSANOW, now)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
