"""`kvmxen boot` as a person runs it: a process, its console, its end. Every wait is bounded."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
# The machine may be busy with other tests; seconds of work get minutes.
PATIENCE = 120.0
# For --timeout: a guest that takes this long hangs.
LIMIT = 280
# The factor by which waits may take longer here, for an emulated machine.
SLOWNESS = int(os.environ.get("KVMXEN_SLOWNESS", "1"))
_TAIL = 3000
# A crash report contains the console's last lines, and says at its beginning what happened.
_REPORT = 20_000


def _slowed(arguments: Sequence[str | Path | float]) -> Iterator[str]:
    """The words of a command line, with a longer --timeout if this machine is slow."""
    for before, word in zip(("", *arguments), arguments, strict=False):
        yield str(float(str(word)) * SLOWNESS if before == "--timeout" else word)


class Domain:
    """A running `kvmxen boot`; leaving the context kills it if necessary.

    Its standard input and output are a terminal if `tty`, of `size` rows and columns, else pipes;
    `environment` is the process's whole environment. The value of "--timeout" is for a machine of
    ordinary speed. `terminal` is the terminal's descriptor on the process's side.
    """

    def __init__(
        self,
        *arguments: str | Path | float,
        environment: Mapping[str, str],
        tty: bool = False,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        keyboard: int | None
        self.terminal: int | None
        keyboard, self.terminal = os.openpty() if tty else (None, None)
        if self.terminal is not None:
            termios.tcsetwinsize(self.terminal, size)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvmxen", "boot", *_slowed(arguments)],
            cwd=ROOT,
            env=environment,
            stdin=self.terminal if tty else subprocess.PIPE,
            stdout=self.terminal if tty else subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._pidfd = os.pidfd_open(self.process.pid)
        stdin, stdout, stderr = self.process.stdin, self.process.stdout, self.process.stderr
        assert stderr
        self._stderr = stderr.fileno()
        if keyboard is None:
            assert stdin
            assert stdout
            self._keyboard, self._screen = stdin.fileno(), stdout.fileno()
        else:
            self._keyboard = self._screen = keyboard
        self._read = {self._screen: b"", self._stderr: b""}
        self._open = {self._screen, self._stderr}
        self._seen = dict.fromkeys(self._read, 0)

    def __enter__(self) -> Domain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._pidfd)
        if self.terminal is not None:
            os.close(self.terminal)
            os.close(self._keyboard)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    @property
    def output(self) -> str:
        """Everything that the guest wrote and that has been read so far."""
        return self._text(self._screen)

    @property
    def stderr(self) -> str:
        """The same for kvmxen itself."""
        return self._text(self._stderr)

    def _text(self, stream: int) -> str:
        return self._read[stream].decode(errors="replace").replace("\r", "")

    def send(self, text: str) -> None:
        """Type `text`."""
        os.write(self._keyboard, text.encode())

    def look_away(self) -> None:
        """Close the end of the pipe that the guest's output comes from."""
        assert self.process.stdout
        self._open.remove(self._screen)
        self.process.stdout.close()

    def expect(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until the guest has written `pattern` after the last expected match."""
        return self._expect(self._screen, pattern, timeout)

    def expect_stderr(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """The same for kvmxen's own output."""
        return self._expect(self._stderr, pattern, timeout)

    def _expect(self, stream: int, pattern: str, timeout: float) -> re.Match[str]:
        end = time.monotonic() + timeout * SLOWNESS
        search = re.compile(pattern, re.S).search
        while not (match := search(self._text(stream), self._seen[stream])):
            if not self._wait(end):
                raise AssertionError(self._story(f"no {pattern!r}"))
        self._seen[stream] = match.end()
        return match

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end; return the exit status."""
        end = time.monotonic() + timeout * SLOWNESS
        while self._wait(end):
            pass
        if self.process.poll() is None:
            raise AssertionError(self._story("it did not end"))
        return self.process.returncode

    def ends(self, status: int, timeout: float = PATIENCE) -> None:
        """Wait for the end, whose exit status must be `status`."""
        if self.wait(timeout) != status:
            raise AssertionError(self._story(f"it did not end with {status}"))

    def _wait(self, end: float) -> bool:
        """Take arriving output; return False at the process's end and when the time is over."""
        left = max(0.0, end - time.monotonic())
        ready, _, _ = select.select([*self._open, self._pidfd], [], [], left)
        for stream in self._open.intersection(ready):
            data = os.read(stream, 1 << 16)
            self._read[stream] += data
            if not data:
                self._open.remove(stream)
        if ready == [self._pidfd]:
            # Its last output may have arrived after the check of its streams.
            if any(select.select(self._open, [], [], 0)):
                return True
            self.process.wait()
            return False
        return bool(ready)

    def _story(self, what: str) -> str:
        return (
            f"{what}; exit status {self.process.poll()}; console:\n{self.output[-_TAIL:]}\n"
            f"stderr:\n{self.stderr[-_REPORT:]}"
        )


# The fixture that starts a domain; takes Domain's arguments except the environment.
Boot = Callable[..., Domain]
# The fixture that makes an initial ramdisk; takes its init's script and the programs for /bin.
Ramdisk = Callable[..., Path]


class Shell:
    """The shell at a domain's console."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        domain.expect(r"\n(?:~|/\S*) # ")
        # The kernel's own messages must not interrupt an answer.
        self.run("dmesg -n 1")

    def run(self, command: str) -> str:
        """Type `command`, which must succeed; return its output."""
        # The echo of the typed command must not look like the answer.
        self.domain.send(f'echo "[fr""om]"; {command}; echo "[to $?]"\n')
        answer = self.domain.expect(r"\[from\]\n(.*)\[to (\d+)\]\n")
        assert answer[2] == "0", answer[0]
        return answer[1]
