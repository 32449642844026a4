"""Opens files and block devices, and nothing that waits or acts when it is opened.

A path is examined before it is opened: opening a FIFO waits for its other end, opening a tape
rewinds it, opening /dev/watchdog starts it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from kvmxen.errors import KvmxenError

# The most that a key file holds: a key is a passphrase or some random bytes.
MAX_KEY = 4096


def open_disk(path: Path, *, readonly: bool, flags: int = 0) -> int:
    """Open the disk's file, locked against use by another domain; the lock is shared if
    `readonly`.

    While a block device is open for writing, the host can neither mount it nor use it otherwise
    (O_EXCL, see open(2)). Raises KvmxenError.
    """
    flags |= os.O_RDONLY if readonly else os.O_RDWR
    fd = _open(f"the disk {path}", path, flags, devices=True)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise KvmxenError(f"the disk {path} cannot be locked: {error.strerror}") from None
        raise KvmxenError(
            f"the disk {path} is in use by another process: stop it, or give ,ro to both"
        ) from None
    return fd


def read_key(path: Path) -> bytes:
    """The key in the file at `path`, as bytes; raises KvmxenError."""
    what = f"the key {path}"
    with os.fdopen(_open(what, path, os.O_RDONLY, devices=False), "rb") as file:
        try:
            key = file.read(MAX_KEY + 1)
        except OSError as error:
            raise KvmxenError(f"{what} cannot be read: {error.strerror}") from None
    if not 1 <= len(key) <= MAX_KEY:
        raise KvmxenError(f"{what} must have 1 to {MAX_KEY} bytes")
    return key


def size_of(fd: int, path: Path) -> int:
    """The size in bytes of an open file or block device; raises KvmxenError if it has none."""
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise KvmxenError(
            f"the disk {path} has no size ({error.strerror}): give a file that has one"
        ) from None


def is_block_device(fd: int) -> bool:
    """Whether the open file is a block device."""
    return stat.S_ISBLK(os.fstat(fd).st_mode)


def _open(what: str, path: Path, flags: int, *, devices: bool) -> int:
    """Open the file at `path`, or, with `devices`, the block device there."""
    try:
        # O_PATH finds the file without opening it.
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            mode = os.fstat(place).st_mode
            if not (stat.S_ISREG(mode) or (devices and stat.S_ISBLK(mode))):
                kinds = "neither a file nor a block device" if devices else "not a file"
                raise KvmxenError(f"{what} is {kinds}: give one")
            if stat.S_ISBLK(mode) and flags & os.O_RDWR:
                flags |= os.O_EXCL
            return os.open(f"/proc/self/fd/{place}", flags | os.O_CLOEXEC)
        finally:
            os.close(place)
    except OSError as error:
        advice = _advice(error.errno or 0, writable=bool(flags & os.O_RDWR))
        raise KvmxenError(f"{what} cannot be opened: {error.strerror}; {advice}") from None


def _advice(code: int, *, writable: bool) -> str:
    if code in (errno.EACCES, errno.EPERM, errno.EROFS) and writable:
        return "make it writable, or give ,ro"
    if code == errno.EINVAL:
        return "give another cache="
    if code == errno.EBUSY:
        return "the host has mounted it or uses it otherwise: stop that, or give ,ro"
    if code in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n)"
    return "choose another file"
