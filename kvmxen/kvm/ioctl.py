"""One ioctl call, and the error that names it. Numbers: Linux's include/uapi/linux/kvm.h."""

from __future__ import annotations

import ctypes
import fcntl
import os

from kvmxen.errors import KvmxenError, shortage

_KVMIO = 0xAE


class KvmError(KvmxenError):
    """A KVM ioctl failed: the message names it, `errno` says why."""

    def __init__(self, name: str, code: int) -> None:
        why = shortage(OSError(code, "")) or (
            f"{os.strerror(code)}; 'kvmxen doctor' shows what this host's /dev/kvm can do"
        )
        super().__init__(f"{name} failed: {why}")
        self.errno = code


def io(nr: int) -> int:
    """The number of an ioctl without a structure."""
    return _KVMIO << 8 | nr


def iow(nr: int, size: int) -> int:
    """The number of an ioctl that passes `size` bytes to the kernel."""
    return 1 << 30 | size << 16 | _KVMIO << 8 | nr


def ior(nr: int, size: int) -> int:
    """The number of an ioctl that fills `size` bytes."""
    return 2 << 30 | size << 16 | _KVMIO << 8 | nr


def iowr(nr: int, size: int) -> int:
    """The number of an ioctl that reads and fills `size` bytes."""
    return 3 << 30 | size << 16 | _KVMIO << 8 | nr


def call(fd: int, name: str, number: int, argument: ctypes.Structure | int = 0) -> int:
    """Run the ioctl; returns its non-negative result, raises KvmError."""
    try:
        # fcntl copies small buffers and passes larger ones directly; both ways return the result.
        return fcntl.ioctl(fd, number, argument)
    except OSError as error:
        raise KvmError(name, error.errno or 0) from None
