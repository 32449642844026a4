"""GNTTABOP_*: the guest's side of kvmxen/grants.py. Source: xen/include/public/grant_table.h."""

from __future__ import annotations

import errno
import struct
from array import array
from enum import IntEnum
from typing import TYPE_CHECKING

from kvmxen.abi.xen import DOMID_GUEST, DOMID_SELF
from kvmxen.errors import HypercallError
from kvmxen.grants import MAX_FRAMES

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu

_OKAY = 0
_GENERAL_ERROR = -1
_BAD_DOMAIN = -2
_SETUP_TABLE = struct.Struct("<H2xIh6xQ")
_OWN = (DOMID_SELF, DOMID_GUEST)


class GnttabOp(IntEnum):
    """GNTTABOP_*"""

    SETUP_TABLE = 2
    QUERY_SIZE = 6
    SET_VERSION = 8
    GET_VERSION = 10


def grant_table_op(cpu: Cpu, command: int, argument: int, count: int) -> int:
    """One operation: those that work on a list, mapping and copying, are not offered."""
    command, count = command & 0xFFFFFFFF, count & 0xFFFFFFFF
    if command not in list(GnttabOp):
        raise HypercallError(errno.ENOSYS)
    if count != 1:
        raise HypercallError(errno.EINVAL)
    match command:
        case GnttabOp.SETUP_TABLE:
            _setup_table(cpu, argument)
        case GnttabOp.QUERY_SIZE:
            domid = int.from_bytes(cpu.read(argument, 2), "little")
            frames = cpu.machine.grants.nr_frames
            status = _OKAY if domid in _OWN else _BAD_DOMAIN
            cpu.write(argument + 4, struct.pack("<IIh", frames, MAX_FRAMES, status))
        case GnttabOp.SET_VERSION:
            version = int.from_bytes(cpu.read(argument, 4), "little")
            # Whatever was asked for, the guest reads back what it got.
            cpu.write(argument, (1).to_bytes(4, "little"))
            if version != 1:
                raise HypercallError(errno.ENOSYS if version == 2 else errno.EINVAL)
        case GnttabOp.GET_VERSION:
            cpu.write(argument + 4, (1).to_bytes(4, "little"))
    return 0


def _setup_table(cpu: Cpu, argument: int) -> None:
    domid, frames, _, pointer = _SETUP_TABLE.unpack(cpu.read(argument, _SETUP_TABLE.size))
    status = _OKAY
    if domid not in _OWN:
        status = _BAD_DOMAIN
    elif frames > MAX_FRAMES:
        status = _GENERAL_ERROR
    else:
        cpu.write(pointer, array("Q", cpu.machine.grants.grow(frames)).tobytes())
    cpu.write(argument + 8, struct.pack("<h", status))
