"""The terminals: each as its guest needs it, and afterwards as it was."""

from __future__ import annotations

import gc
import os
import select
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmxen.backends.terminal import PtyTerminal, StdioTerminal, _raw, open_terminal
from kvmxen.config import ConsoleSpec
from kvmxen.errors import KvmxenError

LFLAG = 3


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    ends = os.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_raw_input_and_cooked_output_until_the_end(pty: tuple[int, int]) -> None:
    _, slave = pty
    before = termios.tcgetattr(slave)
    with _raw(slave):
        now = termios.tcgetattr(slave)
        # No echo, no lines, and Ctrl-C is the guest's.
        assert not now[LFLAG] & (termios.ECHO | termios.ICANON | termios.ISIG)
        assert now[1] & termios.OPOST
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
    # What other tests left to the collector would close meanwhile.
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
        # The kernel passes it on at a time of its own.
        select.select([terminal.output_fd], [], [], 60)
        assert os.read(terminal.output_fd, 16) == b"ls\r"
        os.close(user)
        # Between two users it does not hang up.
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
        pytest.raises(KvmxenError, match=r"cannot be opened: Is a directory; name another$"),
        open_terminal(ConsoleSpec("file", tmp_path), lambda: None),
    ):
        pass


def test_none() -> None:
    with open_terminal(ConsoleSpec("none"), lambda: None) as terminal:
        assert (terminal.input_fd, terminal.output_fd) == (None, None)
        assert terminal.filter_input(b"\x1d") == b"\x1d"


def test_stdio() -> None:
    with open_terminal(ConsoleSpec("stdio"), lambda: None) as terminal:
        assert isinstance(terminal, StdioTerminal)
        assert (terminal.input_fd, terminal.output_fd) == (0, 1)
        assert not terminal.lossy
