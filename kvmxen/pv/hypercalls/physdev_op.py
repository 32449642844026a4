"""physdev_op: a domain without devices may only set port I/O permissions.

Source: xen/arch/x86/physdev.c.
"""

from __future__ import annotations

import errno
from enum import IntEnum

from kvmxen.errors import HypercallError
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.physdev import PhysdevSetIobitmap
from kvmxen.xen.abi.xen import is_guests


class PhysdevOp(IntEnum):
    """PHYSDEVOP_*"""

    SET_IOPL = xen.PHYSDEVOP_set_iopl
    SET_IOBITMAP = xen.PHYSDEVOP_set_iobitmap


_PORTS = 0x10000


def physdev_op(cpu: Cpu, command: int, argument: int) -> int:
    """PHYSDEVOP_set_iopl and set_iobitmap, of the calling vCPU."""
    match command & 0xFFFFFFFF:
        case PhysdevOp.SET_IOPL:
            iopl = cpu.read_u32(argument)
            if iopl > 3:
                raise HypercallError(errno.EINVAL)
            cpu.vcpu.iopl = iopl
        case PhysdevOp.SET_IOBITMAP:
            request = PhysdevSetIobitmap.load(cpu, argument)
            if request.nr_ports > _PORTS or not is_guests(request.bitmap):
                raise HypercallError(errno.EINVAL)
            cpu.io_bitmap, cpu.io_ports = request.bitmap, request.nr_ports
        case _:
            raise HypercallError(errno.ENOSYS)
    return 0
