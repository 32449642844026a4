"""A file system with little room, in a mount namespace of its own that ends with the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

_SCRIPT = 'mount -t tmpfs -o size="$2" small "$1" && echo mounted && exec cat'


class Unavailable(Exception):
    """It cannot be had here; str() says why."""


class SmallFileSystem:
    """A tmpfs of `mib` MiB on the folder `where`, for the time of the context.

    `path` is where this process and others see it. Raises Unavailable.
    """

    def __init__(self, where: Path, mib: int) -> None:
        unshare = shutil.which("unshare")
        if unshare is None:
            raise Unavailable("unshare")
        as_user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        command = [unshare, *as_user, "--mount", "sh", "-c", _SCRIPT, "sh", where, f"{mib}M"]
        self._holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"mounted\n":
            self._end()
            raise Unavailable("a mount namespace")
        self.path = Path(f"/proc/{self._holder.pid}/root{where}")

    def __enter__(self) -> SmallFileSystem:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._holder.communicate()
