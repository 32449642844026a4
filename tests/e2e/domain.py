"""`kvmxen boot` as a person runs it: a process, its console, its end. Every wait is bounded."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
# The machine may be busy with other tests; what takes seconds gets minutes.
PATIENCE = 120.0
_TAIL = 3000


class Domain:
    """A running `kvmxen boot`; leaving the context kills it if need be.

    Its console is a terminal where `tty`, else pipes; `environment` is the process's whole one.
    """

    def __init__(
        self, *arguments: str | Path, environment: Mapping[str, str], tty: bool = False
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115: closed in __exit__
        self._console, self.terminal = os.openpty() if tty else (-1, -1)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvmxen", "boot", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdin=self.terminal if tty else subprocess.PIPE,
            stdout=self.terminal if tty else subprocess.PIPE,
            stderr=self._stderr,
        )
        if not tty:
            assert self.process.stdout is not None
            self._console = self.process.stdout.fileno()
        self._pidfd = os.pidfd_open(self.process.pid)
        self._output = bytearray()
        self._seen = 0

    def __enter__(self) -> Domain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._pidfd)
        self._stderr.close()
        if self.terminal >= 0:
            os.close(self.terminal)
            os.close(self._console)

    @property
    def output(self) -> str:
        """All that the guest wrote so far and that was read."""
        return self._output.decode(errors="replace").replace("\r", "")

    @property
    def stderr(self) -> str:
        """All that kvmxen itself wrote."""
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def send(self, text: str) -> None:
        """Type `text`."""
        if self.terminal >= 0:
            os.write(self._console, text.encode())
        else:
            assert self.process.stdin is not None
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def expect(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until the guest has written, after what was expected last, `pattern`."""
        end = time.monotonic() + timeout
        while True:
            if match := re.compile(pattern, re.S).search(self.output, self._seen):
                self._seen = match.end()
                return match
            if not self._read(end):
                raise AssertionError(self._story(f"no {pattern!r}"))

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end: the exit status."""
        end = time.monotonic() + timeout
        while self._read(end):
            pass
        if self.process.poll() is None:
            raise AssertionError(self._story("it did not end"))
        return self.process.returncode

    def _read(self, end: float) -> bool:
        """Take what there is; False at the process's end and when the time is over."""
        left = max(0.0, end - time.monotonic())
        ready, _, _ = select.select([self._console, self._pidfd], [], [], left)
        if self._console in ready:
            data = os.read(self._console, 1 << 16)
            self._output += data
            if data:
                return True
        if self._pidfd in ready:
            self.process.wait()
            return False
        # At the end of its output the process is about to end.
        return bool(ready) and not select.select([self._pidfd], [], [], left)[0]

    def _story(self, what: str) -> str:
        self.process.poll()
        return (
            f"{what}; exit status {self.process.returncode}; console:\n{self.output[-_TAIL:]}\n"
            f"stderr:\n{self.stderr[-_TAIL:]}"
        )


class Shell:
    """The shell at a domain's console."""

    def __init__(self, domain: Domain, prompt: str = r"\n(?:~|/\S*) # ") -> None:
        self.domain = domain
        domain.expect(prompt)

    def run(self, command: str, timeout: float = PATIENCE) -> str:
        """Type `command`, which must succeed; what it printed."""
        # The echo of what is typed must not look like the answer.
        self.domain.send(f'echo "[fr""om]"; {command}; echo "[to $?]"\n')
        answer = self.domain.expect(r"\[from\]\n(.*)\[to (\d+)\]\n", timeout)
        assert answer[2] == "0", answer[0]
        return answer[1]
