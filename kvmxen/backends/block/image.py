"""The image behind a disk: a file or a block device, used as it is; its format is never guessed."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import Protocol

from kvmxen.backends.block.engine import Engine
from kvmxen.backends.block.files import is_block_device, open_disk, size_of
from kvmxen.backends.block.pool import PoolEngine
from kvmxen.backends.block.uring import UringEngine
from kvmxen.config.disk import DiskSpec
from kvmxen.errors import KvmxenError
from kvmxen.xen.abi.blkif import SECTOR

POOL_THREADS = 8
_BLKSSZGET = 0x1268
_DIRECT = ("none", "directsync")
_SYNCHRONOUS = ("writethrough", "directsync")


class Image(Protocol):
    """A disk of `sectors` of 512 bytes; `sector_size`, in bytes, is the unit of every access."""

    sectors: int
    sector_size: int
    discards: bool

    def engine(self, doorbell: int, depth: int) -> Engine:
        """An engine for one queue, with `depth` operations at a time and the eventfd `doorbell`."""

    def measure(self) -> int:
        """The current number of 512-byte sectors; raises KvmxenError if it cannot be measured."""

    def abandon(self) -> None:
        """Make the operations that its engines wait for in vain fail."""

    def close(self) -> None:
        """Close the image; no engine may be in use any more."""


def whole_sectors(size: int, sector_size: int) -> int:
    """The number of 512-byte sectors of a disk of `size` bytes, rounded down to whole units of
    `sector_size`."""
    return size // sector_size * (sector_size // SECTOR)


class RawImage:
    """The file or block device that `spec` names, locked against another domain's use.

    Raises KvmxenError if it cannot be used.
    """

    def __init__(self, spec: DiskSpec) -> None:
        self._path = spec.path
        flags = os.O_DIRECT if spec.cache in _DIRECT else 0
        flags |= os.O_DSYNC if spec.cache in _SYNCHRONOUS else 0
        self._fd = open_disk(spec.path, readonly=spec.readonly, flags=flags)
        try:
            self._examine(spec)
        except BaseException:
            os.close(self._fd)
            raise

    def _examine(self, spec: DiskSpec) -> None:
        self.sector_size = spec.sector_size
        if is_block_device(self._fd):
            answer = fcntl.ioctl(self._fd, _BLKSSZGET, bytes(4))
            self.sector_size = max(self.sector_size, struct.unpack("i", answer)[0])
        self.sectors = self.measure()
        if not self.sectors:
            raise KvmxenError(
                f"the disk {self._path} is smaller than a sector: enlarge it (truncate --size 1G)"
            )
        self.discards = spec.discard and not spec.readonly
        if spec.cache in _DIRECT:
            self._try_direct()

    def measure(self) -> int:
        """See Image."""
        return whole_sectors(size_of(self._fd, self._path), self.sector_size)

    def _try_direct(self) -> None:
        """Open for direct access, which may need larger units than the disk's sectors."""
        with mmap.mmap(-1, mmap.PAGESIZE) as buffer, memoryview(buffer) as view:
            try:
                os.preadv(self._fd, [view[: self.sector_size]], 0)
            except OSError:
                raise KvmxenError(
                    f"the disk {self._path} does not allow direct I/O in sectors of "
                    f"{self.sector_size} bytes: give sector-size=4096, or cache=writeback"
                ) from None

    def engine(self, doorbell: int, depth: int) -> Engine:
        """An engine on io_uring if the host has it, else on threads."""
        try:
            return UringEngine(self._fd, doorbell, depth)
        except OSError:
            return PoolEngine(self._fd, doorbell, POOL_THREADS)

    def abandon(self) -> None:
        """Do nothing: the host's kernel ends every operation in its own time."""

    def close(self) -> None:
        """Close the file, which unlocks it."""
        os.close(self._fd)


def open_image(spec: DiskSpec, queues: int) -> Image:
    """Open the image that `spec` names, by its format, for `queues` engines; raises KvmxenError."""
    if spec.format == "raw":
        return RawImage(spec)
    # Imported here: a domain with only raw disks should not pay for it.
    from kvmxen.backends.block.qemu import QemuImage

    return QemuImage(spec, queues)
