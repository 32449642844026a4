"""vm_assist: how Xen should behave for a PV guest. Source: xen/include/public/xen.h."""

from __future__ import annotations

import errno

from kvmxen.errors import HypercallError
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi import xen

_VM_ASSISTS = frozenset({0, 1, 2, 3, 4, 5})


def vm_assist(cpu: Cpu, command: int, assist: int) -> int:
    """Enable or disable an assist: all but the architectural IOPL always act as enabled."""
    command, assist = command & 0xFFFFFFFF, assist & 0xFFFFFFFF
    if command not in (xen.VMASST_CMD_enable, xen.VMASST_CMD_disable):
        raise HypercallError(errno.ENOSYS)
    if assist not in _VM_ASSISTS:
        raise HypercallError(errno.EINVAL)
    if assist == xen.VMASST_TYPE_architectural_iopl:
        for each in cpu.machine.cpus:
            each.vcpu.architectural_iopl = command == xen.VMASST_CMD_enable
    return 0
