"""The errors that cross module boundaries, by who made the mistake."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping


def printable(text: str) -> str:
    """`text` on one line, with characters that control a terminal escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


class KvmxenError(Exception):
    """A person's mistake, or a lack of the host: str() is one clear sentence on what to do."""

    exit_status = 1


class UsageError(KvmxenError):
    """The command line or a configuration is wrong."""

    exit_status = 2


class FieldError(UsageError):
    """A configuration is wrong: `text` names its fields between backquotes.

    str() names them without.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.replace("`", ""))
        self._text = text

    def worded(self, words: Mapping[str, str]) -> str:
        """The sentence with `words` in place of the fields' names."""
        return re.sub("`([a-z_]+)`", lambda match: words.get(match[1], match[1]), self._text)


class HypercallError(Exception):
    """A guest made a mistake: the hypercall returns the negative errno.

    Linux's and Xen's errno values agree (xen/include/public/errno.h).
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"{errno.errorcode.get(code, code)}: {os.strerror(code)}")
        self.errno = code


class GuestFault(HypercallError):
    """A guest address (VA, gpa, frame or grant) that is not the guest's: -EFAULT."""

    def __init__(self, what: str = "") -> None:
        super().__init__(errno.EFAULT)
        self.what = what


class GuestCrash(Exception):
    """The guest cannot continue: str() is the reason in the crash report."""


class Interrupted(BaseException):
    """A person or the timeout ends the command before a guest runs: str() says which.

    Like KeyboardInterrupt it is no Exception: error handlers let it pass, and cleanup runs on the
    way.
    """

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


_SHORTAGES = {
    errno.EMFILE: "this process cannot open more files: raise the limit (ulimit -n)",
    errno.ENFILE: "this host cannot open more files: stop something, or raise fs.file-max",
    errno.ENOMEM: "there is not enough memory: stop something, raise the limit (ulimit -v), or "
    "give the guest less (--memory)",
    errno.EAGAIN: "no more processes and threads are allowed: raise the limit (ulimit -u), or "
    "give the guest fewer --vcpus",
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your disk quota is exhausted: free some space",
}


def shortage(error: BaseException) -> str | None:
    """A sentence that says what to do, if `error` means that this process or its host ran out of
    something; else None."""
    if isinstance(error, ImportError):
        return (
            f"a part of kvmxen cannot be loaded ({error}): raise the limits on files and memory "
            "(ulimit -n, ulimit -v), or reinstall kvmxen"
        )
    if isinstance(error, MemoryError):
        return _SHORTAGES[errno.ENOMEM]
    # This is threading.Thread.start's message.
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _SHORTAGES[errno.EAGAIN]
    return _SHORTAGES.get(error.errno or 0) if isinstance(error, OSError) else None
