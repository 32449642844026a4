"""The process's standard streams: there from the first moment, and what kvmxen says on stderr.

They may be terminals, files on a full disk, pipes that nobody reads any more, or closed: what is
said there never ends a domain.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def open_missing() -> None:
    """Open /dev/null for each standard stream that is closed, or the next file that is opened
    would be the one that is read and written there."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            # As Python has it for a stream that was closed when it began.
            mode, errors = "w" if fd else "r", "backslashreplace"
            setattr(sys, name, open(fd, mode, errors=errors, closefd=False))  # noqa: SIM115


def settle() -> None:
    """Write what is still to be written; what cannot be is dropped.

    Else Python tries it once more as it exits, complains, and changes the exit status to 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def say(text: str) -> None:
    """Print "kvmxen: `text`" on stderr, for a person; from any thread."""
    # A guest's output may have left the cursor amid a line.
    start = "\r" if sys.stderr.isatty() else ""
    tell(f"{start}kvmxen: {text}")


def tell(text: str) -> None:
    """Print `text`, one line or more, on stderr; from any thread."""
    # It is a RuntimeError in a signal's handler, while the thread writes another line.
    with suppress(OSError, RuntimeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@contextmanager
def ends_lines_for_raw() -> Iterator[None]:
    """For the time of the context, lines on a stderr that is a terminal begin at its left, though
    the terminal is raw."""
    if not sys.stderr.isatty() or not isinstance(sys.stderr, io.TextIOWrapper):
        yield
        return
    stream = sys.stderr
    stream.reconfigure(newline="\r\n")
    try:
        yield
    finally:
        stream.reconfigure(newline="\n")
