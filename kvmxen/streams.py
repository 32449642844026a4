"""The process's standard streams: opens missing ones, and prints kvmxen's messages on stderr.

They may be terminals, files on a full disk, pipes that nobody reads any more, or closed: a failed
write never ends a domain.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def open_missing() -> None:
    """Open /dev/null for each closed standard stream; otherwise the next file that is opened would
    take its place."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            # open() takes the lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            # sys has None for a stream that was closed when Python started.
            mode, errors = "w" if fd else "r", "backslashreplace"
            setattr(sys, name, open(fd, mode, errors=errors, closefd=False))  # noqa: SIM115


def settle() -> None:
    """Flush stdout and stderr; drop what cannot be written.

    Otherwise Python tries again as it exits, complains, and changes the exit status to 120.
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
    # A guest's output may have left the cursor in the middle of a line.
    start = "\r" if sys.stderr.isatty() else ""
    tell(f"{start}kvmxen: {text}")


def tell(text: str) -> None:
    """Print `text`, one line or more, on stderr; from any thread."""
    # A signal handler gets a RuntimeError if its thread is writing another line.
    with suppress(OSError, RuntimeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@contextmanager
def ends_lines_for_raw() -> Iterator[None]:
    """End stderr's lines with CR LF for the time of the context, if it is a terminal: a raw one
    needs both."""
    if not sys.stderr.isatty() or not isinstance(sys.stderr, io.TextIOWrapper):
        yield
        return
    stream = sys.stderr
    stream.reconfigure(newline="\r\n")
    try:
        yield
    finally:
        stream.reconfigure(newline="\n")
