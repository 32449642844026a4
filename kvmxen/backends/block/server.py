"""The qemu-nbd process: how it starts, its rights, and the message when it ends."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kvmxen import confine
from kvmxen.errors import KvmxenError, printable
from kvmxen.streams import say

# Programs expect particular files at the lower descriptors.
_FIRST_DESCRIPTOR = 10
# The most that is kept of a line of its output, in bytes.
_MAX_LINE = 4096


class Server:
    """qemu-nbd, run as `command`, which serves `listener`. It can reopen the files that `readonly`
    and `writable` have open; `passed` makes all these descriptors. Raises KvmxenError.

    Linux kills it when this process ends, however it ends. For the image that is a power failure:
    flushed data is safe. If it ends before `expect_end` is called, a message on stderr about
    `name` says so.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        listener: int,
        readonly: list[int],
        writable: list[int],
    ) -> None:
        self._name = name
        self._expected = False
        self._failure: OSError | None = None
        self._line = b""
        self._command = confine.command(
            command, socket=listener, readonly=readonly, writable=writable
        )
        self._passed = [listener, *readonly, *writable]
        self._started = threading.Event()
        # Linux kills the process when the thread that started it ends, so this thread stays.
        self._thread = threading.Thread(target=self._run, name="qemu-nbd", daemon=True)
        try:
            self._thread.start()
            self._started.wait()
        except RuntimeError as error:
            raise KvmxenError(f"{name} cannot be served: {error}") from None
        except BaseException:
            # A signal interrupted the wait; the process may not have started yet.
            self._expected = True
            if self._started.is_set() and self._failure is None:
                self.process.kill()
            raise
        if self._failure is not None:
            raise KvmxenError(f"{name} cannot be served: {self._failure.strerror}")

    def _run(self) -> None:
        try:
            self.process = subprocess.Popen(
                self._command,
                pass_fds=self._passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                # Ctrl-C is for the guest.
                start_new_session=True,
            )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        if self._expected:
            self.process.kill()
        assert self.process.stderr
        with self.process.stderr as stderr:
            while line := stderr.readline(_MAX_LINE):
                self._line = line.strip() or self._line
        status = self.process.wait()
        if not self._expected:
            how = f"ended with status {status}"
            if status < 0:
                how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
            said = f" ({self.said})" if self.said else ""
            say(f"{self._name}: qemu-nbd {how}{said}; the guest gets I/O errors")

    @property
    def said(self) -> str:
        """The last line of its output."""
        return printable(self._line.decode(errors="replace")).removeprefix("qemu-nbd: ")

    def expect_end(self) -> None:
        """Print no message when it ends."""
        self._expected = True

    def kill(self) -> None:
        """Kill it."""
        self._expected = True
        self.process.kill()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for it to end; return whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


@contextmanager
def passed(*fds: int) -> Iterator[list[int]]:
    """Copies of `fds` for a process that is started inside the block."""
    with ExitStack() as stack:
        copies = []
        for fd in fds:
            copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR))
            stack.callback(os.close, copies[-1])
        yield copies
