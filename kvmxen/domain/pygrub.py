"""A disk's own kernel, which Xen's pygrub finds by reading the disk's file system on the host.

pygrub reads what a guest wrote, so it runs confined: it can open the disk for reading, and write
into one folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from kvmxen import confine
from kvmxen.config.disk import DiskSpec
from kvmxen.config.domain import is_cmdline
from kvmxen.errors import KvmxenError, printable

# Where distributions have it. Debian's program in the path needs Xen to choose among versions.
_PLACES = ("/usr/lib/xen-*/bin/pygrub", "/usr/lib/xen/bin/pygrub", "/usr/libexec/xen/bin/pygrub")
_PATIENCE_S = 60
# Bytes of what it says: two paths and a command line, or why it failed.
_MOST_SAID = 16 << 10


class Found(NamedTuple):
    """What the disk says to boot: files that exist within the context, and the command line."""

    kernel: Path
    ramdisk: Path | None
    cmdline: str


def find_pygrub() -> Path | None:
    """The newest pygrub of this host."""
    for place in _PLACES:
        if found := sorted(Path("/").glob(place[1:])):
            return found[-1]
    path = shutil.which("pygrub")
    return Path(path) if path else None


@contextmanager
def boot_files(disk: DiskSpec, more: str, folder: Path) -> Iterator[Found]:
    """What the boot menu on `disk` boots by default, with `more` on the kernel's command line.

    The files lie in a new folder in `folder`. Raises KvmxenError if there is nothing to boot.
    """
    program = find_pygrub()
    if program is None:
        raise KvmxenError(
            "this host has no pygrub: install Debian's xen-utils, or let the disk boot by pvgrub"
        )
    if disk.format != "raw":
        raise KvmxenError(
            f"pygrub cannot read {disk.path}, an image of the format {disk.format}: "
            "convert it to raw, or let it boot by pvgrub"
        )
    place, kept = folder / "pygrub", folder / "from-pygrub"
    try:
        place.mkdir(mode=0o700)
        kept.mkdir(mode=0o700)
        yield _found(_answer(program, disk, more, place), place, kept, disk)
    finally:
        for each in (place, kept):
            shutil.rmtree(each, ignore_errors=True)


def _answer(program: Path, disk: DiskSpec, more: str, place: Path) -> dict[str, str]:
    """What pygrub says to boot: "kernel", "ramdisk" and "args", if it finds them."""
    answer = place / "answer"
    answer.touch()
    try:
        fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise KvmxenError(f"the disk {disk.path} cannot be read: {error.strerror}") from None
    try:
        command = [
            *(str(program), "--quiet", "--output-format=simple0", f"--output={answer}"),
            *(f"--output-directory={place}", f"--args={more}", f"/proc/self/fd/{fd}"),
        ]
        _run(confine.command(command, readonly=[fd], folder=str(place)), fd, place / "said", disk)
    finally:
        os.close(fd)
    words = _read(answer).split("\0")
    return {key: value for key, _, value in (word.partition(" ") for word in words) if key}


def _run(command: list[str], fd: int, said: Path, disk: DiskSpec) -> None:
    with said.open("wb") as output:
        process = subprocess.Popen(
            command,
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={},
            cwd="/",
            start_new_session=True,
        )
    try:
        status = process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise KvmxenError(
            f"pygrub took more than {_PATIENCE_S} s for {disk.path}: let it boot by pvgrub"
        ) from None
    finally:
        # With its children, if it has any; also if a person interrupts us.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status:
        lines = [*filter(None, _read(said).splitlines()), f"status {status}"]
        why = lines[-1 if status < 0 or len(lines) == 1 else -2]
        raise KvmxenError(
            f"pygrub found no kernel on {disk.path} ({printable(why)}): "
            "give a kernel, or let it boot by pvgrub"
        )


def _read(path: Path) -> str:
    """What pygrub wrote into the file `path`, which it may have replaced by anything."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        return os.fsdecode(file.read(_MOST_SAID) or b"")


def _found(answer: dict[str, str], place: Path, kept: Path, disk: DiskSpec) -> Found:
    """The files, moved from the folder `place`, which a process that a disk took over may still
    change, to the folder `kept`, which it may not."""
    files = {}
    for key in ("kernel", "ramdisk"):
        if key in answer:
            path, moved = Path(answer[key]), kept / key
            if path.parent == place and path.name not in ("", ".", ".."):
                with suppress(OSError):
                    path.rename(moved)
            # A disk that took pygrub over must not choose a file of ours.
            if moved.is_symlink() or not moved.is_file():
                raise KvmxenError(f"pygrub named a file that it may not, for {disk.path}")
            files[key] = moved
    if "kernel" not in files:
        raise KvmxenError(f"pygrub found no kernel on {disk.path}: let it boot by pvgrub")
    cmdline = answer.get("args", "")
    if not is_cmdline(cmdline):
        raise KvmxenError(f"the boot menu on {disk.path} has a command line that no guest can have")
    return Found(files["kernel"], files.get("ramdisk"), cmdline)
