"""The process's standard streams: what kvmxen itself says, on a stderr that may be anything.

It may be a terminal that is raw, a file on a full disk, or a pipe that nobody reads any more: what
is said there never ends a domain.
"""

from __future__ import annotations

import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print "kvmxen: `text`" on stderr, for a person; from any thread."""
    # A guest's output may have left the cursor amid a line.
    start = "\r" if sys.stderr.isatty() else ""
    tell(f"{start}kvmxen: {text}")


def tell(text: str) -> None:
    """Print `text`, one line or more, on stderr; from any thread."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
