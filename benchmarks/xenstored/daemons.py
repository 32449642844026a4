"""Debian's own xenstored and oxenstored, running without Xen beside what is measured."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.packages import Unavailable
from tests.xen_tools import oxenstored_configuration, xen_programs

NAMES = ("xenstored", "oxenstored")
STAND_IN = Path(__file__).with_name("stand_in.c")
_FOLDERS = ("proc/xen", "var/lib/xenstored", "var/log/xen", "var/run/xen", "var/run/xenstored")
_PATIENCE_SECONDS = 60.0


@contextmanager
def running(name: str, folder: Path) -> Iterator[Path]:
    """The socket of the daemon `name`, which runs with its files in the empty `folder`.

    Raises Unavailable if it is not available, cannot be prepared, or does not start.
    """
    programs = xen_programs()
    options = ["-N"]
    if name == "oxenstored":
        # By itself it would find the system's file.
        options = ["--no-fork", "--config-file", str(oxenstored_configuration())]
    for each in _FOLDERS:
        (folder / each).mkdir(parents=True)
    (folder / "proc/xen/xsd_port").write_text("1")
    (folder / "proc/xen/xsd_kva").write_bytes(bytes(4096))
    place = folder / "var/run/xenstored"
    environment = programs.environment(
        LD_PRELOAD=str(_build(folder)), STAND_IN=str(folder.absolute())
    )
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [programs.paths[name], *options],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait(process, place / "socket", folder / "output")
        yield place / "socket"
    finally:
        process.kill()
        process.wait()


def _build(folder: Path) -> Path:
    compiler = shutil.which("gcc")
    if compiler is None:
        raise Unavailable("this host has no gcc")
    library = (folder / "stand_in.so").absolute()
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, "-o", library, STAND_IN], check=True)
    return library


def _wait(process: subprocess.Popen[bytes], path: Path, output: Path) -> None:
    """Wait until somebody accepts connections at `path`."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                # An address has room for 107 bytes.
                probe.connect(f"/proc/{process.pid}/cwd/{path.name}")
            except OSError:
                time.sleep(0.01)
            else:
                return
    raise Unavailable(f"it does not start: {output.read_text(errors='replace').strip()}")
