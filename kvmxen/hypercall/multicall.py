"""multicall: a list of hypercalls in one."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from kvmxen.abi.xen import Hypercall
from kvmxen.errors import HypercallError

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu

# struct multicall_entry (xen/include/public/xen.h): op, result, six arguments.
_ENTRY = struct.Struct("<8Q")
_MAX_CALLS = 1 << 16
# Calls that load the caller's registers, and a list in a list.
_NOT_IN_A_LIST = frozenset({Hypercall.iret, Hypercall.multicall})


def multicall(cpu: Cpu, calls: int, count: int) -> int:
    """Run `count` hypercalls; each one's result goes into its entry."""
    count &= 0xFFFFFFFF
    if count > _MAX_CALLS:
        raise HypercallError(errno.EINVAL)
    for entry in range(calls, calls + count * _ENTRY.size, _ENTRY.size):
        number, _, *arguments = _ENTRY.unpack(cpu.read(entry, _ENTRY.size))
        result: int | None = -errno.ENOSYS
        if number not in _NOT_IN_A_LIST:
            result = cpu.hypercall(number, arguments)
        assert result is not None
        cpu.write(entry + 8, (result & (1 << 64) - 1).to_bytes(8, "little"))
        if cpu.machine.stopping:
            break
    return 0
