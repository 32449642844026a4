"""The errors that xenstore answers with."""

from __future__ import annotations

import errno
import os


class XenstoreError(Exception):
    """A request that xenstore refuses; `errno` travels to the client by its name."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{errno.errorcode.get(code, code)}: {os.strerror(code)}")
        self.errno = code


class DumpError(Exception):
    """Bytes that are not a xenstore's state; the text is a sentence for a person."""


class ProtocolError(Exception):
    """A stream of bytes that is not xenstore's protocol; its connection is lost."""
