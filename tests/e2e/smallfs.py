"""A file system with little room, in its own mount namespace, which ends with the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = 'mount -t tmpfs -o size="$2" small "$1" && echo mounted && exec cat'


class Unavailable(Exception):
    """It is not available here; str() says why."""


@contextmanager
def small_file_system(where: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of `mib` MiB on the folder `where`, within the context.

    Yields the path by which this process and others see it. Raises Unavailable.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise Unavailable("unshare")
    as_user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = [unshare, *as_user, "--mount", "sh", "-c", _SCRIPT, "sh", where, f"{mib}M"]
    # The process ends when its standard input does, with the context.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        assert holder.stdout
        if holder.stdout.readline() != b"mounted\n":
            raise Unavailable("a mount namespace")
        yield Path(f"/proc/{holder.pid}/root{where}")
