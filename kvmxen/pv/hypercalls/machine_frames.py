"""XENMEM_* of guests that know their machine frames: the machine-to-physical table, and exchange.

Source: xen/include/public/memory.h.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE, SUPERPAGE
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi.memory import XenMachphysMapping, XenMachphysMfnList, XenMemoryExchange
from kvmxen.xen.hypercalls.domid import check_own
from kvmxen.xen.hypercalls.memory_op import MAX_ORDER, Memory

# Frames in one exchange: one superpage.
_MAX_EXCHANGE = 1 << MAX_ORDER
_MASK64 = (1 << 64) - 1


def _machphys_mapping(cpu: Cpu, argument: int) -> int:
    machine = cpu.machine
    XenMachphysMapping(
        v_start=machine.m2p_va,
        v_end=machine.m2p_va + machine.layout.m2p_bytes,
        max_mfn=machine.layout.max_mfn - 1,
    ).store(cpu, argument)
    return 0


def _machphys_mfn_list(cpu: Cpu, argument: int) -> int:
    request = XenMachphysMfnList.load(cpu, argument)
    layout = cpu.machine.layout
    extents = range(layout.m2p_gpa, layout.m2p_gpa + layout.m2p_bytes, SUPERPAGE)
    extents = extents[: request.max_extents]
    mfns = array("Q", (gpa >> PAGE_SHIFT for gpa in extents))
    cpu.write(request.extent_start, mfns.tobytes())
    XenMachphysMfnList.nr_extents.store(cpu, argument, len(extents))
    return 0


def _set_m2p(cpu: Cpu, mfn: int, pfn: int, frames: int) -> None:
    for i in range(frames):
        cpu.tables.set_m2p(mfn + i, pfn + i & _MASK64)


def _exchange(cpu: Cpu, argument: int) -> int:
    """Swap frames for contiguous ones, if the balloon has any."""
    request = XenMemoryExchange.load(cpu, argument)
    source, out = request.source, request.out
    check_own(source.domid)
    check_own(out.domid)
    count = source.nr_extents
    if (
        request.nr_exchanged
        or source.extent_order > MAX_ORDER
        or out.extent_order > MAX_ORDER
        or count << source.extent_order != out.nr_extents << out.extent_order
        or count << source.extent_order > _MAX_EXCHANGE
    ):
        raise HypercallError(errno.EINVAL)
    frames = [
        first + i
        for first in array("Q", cpu.read(source.extent_start, count * 8))
        for i in range(1 << source.extent_order)
    ]
    if not cpu.machine.balloon.may_take(frames) or len(set(frames)) != len(frames):
        raise HypercallError(errno.EINVAL)
    size = 1 << out.extent_order
    for index in range(out.nr_extents):
        chunk = frames[index * size : (index + 1) * size]
        if chunk != list(range(chunk[0], chunk[0] + size)):
            raise HypercallError(errno.ENOMEM)
    for index in range(out.nr_extents):
        pfn = cpu.read_u64(out.extent_start + index * 8)
        first = frames[index * size]
        for i in range(size):
            cpu.machine.memory.zero(first + i << PAGE_SHIFT, PAGE_SIZE)
        _set_m2p(cpu, first, pfn, size)
        cpu.write_u64(out.extent_start + index * 8, first)
    XenMemoryExchange.nr_exchanged.store(cpu, argument, count)
    return 0


# For memory_op.
OPERATIONS: dict[int, Callable[[Cpu, int], int]] = {
    Memory.MACHPHYS_MAPPING: _machphys_mapping,
    Memory.MACHPHYS_MFN_LIST: _machphys_mfn_list,
    Memory.EXCHANGE: _exchange,
}
