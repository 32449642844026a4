"""The terminals: each is as its guest needs it, and afterwards as before."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from kvmxen.backends.terminal import (
    PlainTerminal,
    PtyTerminal,
    StdioTerminal,
    _raw,
    open_terminal,
    terminal_size,
)
from kvmxen.config import ConsoleSpec
from kvmxen.config.console import ConsoleKind
from kvmxen.errors import KvmxenError
from kvmxen.streams import tell

OFLAG, LFLAG = 1, 3


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    ends = os.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_raw_until_the_end(pty: tuple[int, int]) -> None:
    _, slave = pty
    before = termios.tcgetattr(slave)
    with _raw(slave):
        now = termios.tcgetattr(slave)
        # No echo, no line editing, Ctrl-C goes to the guest, and the guest's own "\r\n" is
        # unchanged.
        assert not now[LFLAG] & (termios.ECHO | termios.ICANON | termios.ISIG)
        assert not now[OFLAG] & termios.OPOST
    assert termios.tcgetattr(slave) == before


def test_the_terminal_is_restored_after_an_error(pty: tuple[int, int]) -> None:
    _, slave = pty
    before = termios.tcgetattr(slave)
    with pytest.raises(KvmxenError), _raw(slave):
        raise KvmxenError("no")
    assert termios.tcgetattr(slave) == before


def test_what_is_no_terminal_is_left_alone() -> None:
    reader, writer = os.pipe()
    with _raw(reader):
        os.write(writer, b"x")
    os.close(reader)
    os.close(writer)


def test_a_pty_for_another_program(capsys: pytest.CaptureFixture[str]) -> None:
    # The collector would otherwise close other tests' garbage meanwhile.
    gc.collect()
    fds = set(Path("/proc/self/fd").iterdir())
    with open_terminal(ConsoleSpec("pty"), lambda: None) as terminal:
        assert isinstance(terminal, PtyTerminal)
        assert capsys.readouterr().err == f"kvmxen: the console is {terminal.path}\n"
        assert terminal.output_fd is not None
        user = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
        os.write(terminal.output_fd, b"# ")
        assert os.read(user, 16) == b"# "
        os.write(user, b"ls\r")
        # The kernel passes it on at its own time.
        select.select([terminal.output_fd], [], [], 60)
        assert os.read(terminal.output_fd, 16) == b"ls\r"
        os.close(user)
        # It does not hang up between two users.
        with pytest.raises(BlockingIOError):
            os.read(terminal.output_fd, 16)
    assert set(Path("/proc/self/fd").iterdir()) == fds


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("of the last boot")
    with open_terminal(ConsoleSpec("file", path), lambda: None) as terminal:
        assert terminal.input_fd is None
        assert terminal.output_fd is not None
        os.write(terminal.output_fd, b"hello")
    assert path.read_text() == "hello"


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with (
        pytest.raises(KvmxenError, match=r"Is a directory; choose another$"),
        open_terminal(ConsoleSpec("file", tmp_path), lambda: None),
    ):
        pass


def test_none() -> None:
    with open_terminal(ConsoleSpec("none"), lambda: None) as terminal:
        assert (terminal.input_fd, terminal.output_fd) == (None, None)
        assert terminal.filter_input(b"\x1d") == b"\x1d"


def test_a_programs_own() -> None:
    with open_terminal(ConsoleSpec("program")) as terminal:
        stream = terminal.stream
        assert stream is not None
        assert terminal.input_fd is not None
        assert terminal.output_fd is not None
        # The loop watches each direction by its descriptor.
        assert terminal.input_fd != terminal.output_fd
        stream.write(b"typed")
        assert os.read(terminal.input_fd, 64) == b"typed"
        with pytest.raises(TimeoutError):
            stream.read(timeout=0.0)
        os.write(terminal.output_fd, b"shown")
        assert select.select([stream], [], [], 0)[0] == [stream]
        with pytest.raises(TimeoutError):
            stream.read_until(b"more", timeout=0.001)
        assert stream.read_until(b"ow") == b"show"
        assert stream.read() == b"n"
        os.write(terminal.output_fd, b"last")
    assert stream.read() == b"last"
    assert stream.read() == b""
    with pytest.raises(BrokenPipeError):
        stream.write(b"too late")
    stream.close()


def test_stdio_that_is_no_terminal() -> None:
    with _stdin(os.open(os.devnull, os.O_RDONLY)), open_stdio() as terminal:
        assert (terminal.input_fd, terminal.output_fd) == (0, 1)
        assert not terminal.lossy
        assert not terminal.raw
        # The escape key is data there.
        assert terminal.filter_input(b"\x1d") == b"\x1d"


def test_stdio_in_a_terminal(pty: tuple[int, int]) -> None:
    with _stdin(os.dup(pty[1])), open_stdio() as terminal:
        assert isinstance(terminal, StdioTerminal)
        assert (terminal.input_fd, terminal.output_fd) == (0, 1)
        assert terminal.raw


def open_stdio() -> AbstractContextManager[PlainTerminal]:
    return open_terminal(ConsoleSpec("stdio"), lambda: None)


@contextmanager
def _stdin(fd: int) -> Iterator[None]:
    """Make `fd` this process's standard input; closes it."""
    kept = os.dup(0)
    os.dup2(fd, 0)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_what_is_said_in_a_raw_terminal(
    pty: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, slave = pty
    with (
        os.fdopen(os.dup(slave), "w") as stderr,
        monkeypatch.context() as patch,
        _stdin(os.dup(slave)),
    ):
        patch.setattr(sys, "stderr", stderr)
        with open_stdio():
            tell("one\ntwo")
            assert os.read(master, 64) == b"one\r\ntwo\r\n"
        # The terminal does it again.
        tell("three\nfour")
        assert os.read(master, 64) == b"three\r\nfour\r\n"


@pytest.mark.parametrize("kind", ["stdio", "pty", "none"])
def test_the_size_is_that_of_a_persons_terminal(pty: tuple[int, int], kind: ConsoleKind) -> None:
    with _stdin(os.dup(pty[1])):
        assert terminal_size(ConsoleSpec(kind)) is None
        termios.tcsetwinsize(pty[1], (50, 132))
        assert terminal_size(ConsoleSpec(kind)) == ((132, 50) if kind == "stdio" else None)


def test_no_size_without_a_terminal() -> None:
    with _stdin(os.open(os.devnull, os.O_RDONLY)):
        assert terminal_size(ConsoleSpec("stdio")) is None


# A program at its controlling terminal, as a shell starts it.
STOPPED = """
import os, sys
from kvmxen.backends.terminal import _raw
with _raw(0):
    os.write(1, b"raw")
    sys.stdin.read(1)
"""


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_a_shell_that_stops_the_process(number: signal.Signals) -> None:
    child, master = os.forkpty()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", STOPPED])
    before = termios.tcgetattr(master)
    assert os.read(master, 16) == b"raw"
    raw = termios.tcgetattr(master)
    assert raw != before
    os.kill(child, number)
    os.waitpid(child, os.WUNTRACED)
    if number == signal.SIGTSTP:
        assert termios.tcgetattr(master) == before
    # What a shell does when it takes the terminal, and returns it.
    termios.tcsetattr(master, termios.TCSANOW, before)
    os.kill(child, signal.SIGCONT)
    while termios.tcgetattr(master) != raw:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.write(master, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(master)


def test_a_terminal_that_hangs_up() -> None:
    master, slave = os.openpty()
    with _raw(slave):
        os.close(master)
    with pytest.raises(termios.error):
        termios.tcgetattr(slave)
    os.close(slave)


# A domain's process whose guest stops at the first request.
HUNG_UP = """
import os, threading
from kvmxen.backends.terminal import open_terminal
from kvmxen.cli.person import Person
from kvmxen.config import ConsoleSpec

class Guest:
    def shutdown(self):
        os.write(2, b"asked")
        over.set()
        return True

    def destroy(self):
        os.write(2, b"destroyed")

over = threading.Event()
person = Person()
with person.signals(None), open_terminal(ConsoleSpec("stdio"), person.interrupt):
    person.watch(Guest())
    os.write(1, b"raw")
    over.wait()
"""


def test_a_terminal_that_hangs_up_on_its_session() -> None:
    """The kernel sends the session's leader SIGHUP and then SIGCONT."""
    reader, writer = os.pipe()
    child, master = os.forkpty()
    if child == 0:
        os.dup2(writer, 2)
        os.execv(sys.executable, [sys.executable, "-c", HUNG_UP])
    os.close(writer)
    assert os.read(master, 16) == b"raw"
    os.close(master)
    with os.fdopen(reader) as stderr:
        said = stderr.read()
    assert said == "kvmxen: asking the guest to shut down; repeat to destroy it\nasked"
    assert os.waitpid(child, 0)[1] == 0
