"""`kvmxen server` as a process of its own, for libvirt's clients."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.domain import PATIENCE, ROOT, SLOWNESS

WAIT = PATIENCE * SLOWNESS


class Server:
    """A running `kvmxen server`."""

    def __init__(self, environment: dict[str, str], path: Path) -> None:
        self.environment = environment
        self.path = path
        self.uri = f"xen:///session?socket={path}"
        self.start()

    def start(self, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvmxen", "server", "--socket", self.path, *more],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        end = time.monotonic() + WAIT
        while not self._answers():
            assert self.process.poll() is None, self.stop()
            assert time.monotonic() < end
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.path)) == 0

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it; returns what it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=WAIT)
        return str(said)


def kvmxen(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "kvmxen", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=WAIT
    )
    return done.stdout
