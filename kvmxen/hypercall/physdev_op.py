"""physdev_op: a domain without devices may set its IOPL, and nothing else."""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import TYPE_CHECKING

from kvmxen.errors import HypercallError

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu


class PhysdevOp(IntEnum):
    """PHYSDEVOP_*"""

    SET_IOPL = 6
    SET_IOBITMAP = 7


def physdev_op(cpu: Cpu, command: int, argument: int) -> int:
    """PHYSDEVOP_set_iopl and set_iobitmap: port I/O of the kernel is emulated regardless."""
    match command & 0xFFFFFFFF:
        case PhysdevOp.SET_IOPL:
            if int.from_bytes(cpu.read(argument, 4), "little") > 3:
                raise HypercallError(errno.EINVAL)
        case PhysdevOp.SET_IOBITMAP:
            pass
        case _:
            raise HypercallError(errno.ENOSYS)
    return 0
