"""XENMEM_*: the domain's memory and its balloon.

Source: xen/include/public/memory.h. A domain keeps its initial frames: a balloon gives a frame
back to the host, and later gets the same or another of the domain's frames.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable
from enum import IntEnum
from functools import partial

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE, SUPERPAGE
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.gate import PvVcpu
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.memory import (
    E820Entry,
    XenMachphysMapping,
    XenMachphysMfnList,
    XenMemoryExchange,
    XenMemoryMap,
    XenMemoryReservation,
)
from kvmxen.xen.hypercalls.domid import OWN, check_own

_E820_RAM = 1
_MAX_EXTENTS = 1 << 20
_MAX_ORDER = 9
# Frames in one exchange: one superpage.
_MAX_EXCHANGE = 1 << _MAX_ORDER
_MASK64 = (1 << 64) - 1


class Memory(IntEnum):
    """XENMEM_*"""

    INCREASE_RESERVATION = xen.XENMEM_increase_reservation
    DECREASE_RESERVATION = xen.XENMEM_decrease_reservation
    MAXIMUM_RAM_PAGE = xen.XENMEM_maximum_ram_page
    CURRENT_RESERVATION = xen.XENMEM_current_reservation
    MAXIMUM_RESERVATION = xen.XENMEM_maximum_reservation
    MACHPHYS_MFN_LIST = xen.XENMEM_machphys_mfn_list
    POPULATE_PHYSMAP = xen.XENMEM_populate_physmap
    MEMORY_MAP = xen.XENMEM_memory_map
    EXCHANGE = xen.XENMEM_exchange
    MACHPHYS_MAPPING = xen.XENMEM_machphys_mapping


def memory_op(cpu: Cpu, command: int, argument: int) -> int:
    """One XENMEM operation."""
    machine = cpu.machine
    match command & 0x3F:
        case Memory.MAXIMUM_RAM_PAGE:
            return machine.layout.max_mfn - 1
        case Memory.CURRENT_RESERVATION:
            check_own(cpu.read_u16(argument))
            return machine.layout.max_pages - machine.balloon.frames
        case Memory.MAXIMUM_RESERVATION:
            check_own(cpu.read_u16(argument))
            return machine.layout.max_pages
        case Memory.MACHPHYS_MAPPING:
            XenMachphysMapping(
                v_start=machine.m2p_va,
                v_end=machine.m2p_va + machine.layout.m2p_bytes,
                max_mfn=machine.layout.max_mfn - 1,
            ).store(cpu, argument)
            return 0
        case Memory.MACHPHYS_MFN_LIST:
            return _machphys_mfn_list(cpu, argument)
        case Memory.MEMORY_MAP:
            return _memory_map(cpu, argument)
        case Memory.DECREASE_RESERVATION:
            return _extents(cpu, argument, machine.balloon.release)
        case Memory.INCREASE_RESERVATION:
            return _extents(cpu, argument, partial(machine.balloon.reserve, populate=False))
        case Memory.POPULATE_PHYSMAP:
            return _extents(cpu, argument, partial(machine.balloon.reserve, populate=True))
        case Memory.EXCHANGE:
            return _exchange(cpu, argument)
    raise HypercallError(errno.ENOSYS)


def _memory_map(cpu: Cpu, argument: int) -> int:
    request = XenMemoryMap.load(cpu, argument)
    if not request.nr_entries:
        raise HypercallError(errno.ENOBUFS)
    size = cpu.machine.layout.max_pages << PAGE_SHIFT
    E820Entry(size=size, type=_E820_RAM).store(cpu, request.buffer)
    XenMemoryMap.nr_entries.store(cpu, argument, 1)
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


def _extents(cpu: Cpu, argument: int, change: Callable[[PvVcpu, int, int, int], int]) -> int:
    """Call `change` on the extents of a reservation, with their list, number and order.

    Returns how many it changed before an error, which is all that Xen reports.
    """
    try:
        request = XenMemoryReservation.load(cpu, argument)
    except GuestFault:
        return 0
    count, order = request.nr_extents, request.extent_order
    if request.domid not in OWN or count > _MAX_EXTENTS or order > _MAX_ORDER:
        return 0
    return change(cpu.vcpu, request.extent_start, count, order)


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
        or source.extent_order > _MAX_ORDER
        or out.extent_order > _MAX_ORDER
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
