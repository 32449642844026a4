"""XENMEM_*: what memory the domain has, and its balloon.

Source: xen/include/public/memory.h. A domain keeps the frames it started with: a balloon gives
a frame back to the host and later gets the same or another of its own.
"""

from __future__ import annotations

import errno
import struct
from array import array
from enum import IntEnum
from typing import TYPE_CHECKING

from kvmxen.abi.xen import DOMID_SELF
from kvmxen.errors import HypercallError
from kvmxen.layout import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu

_RESERVATION = struct.Struct("<QQIIH6x")
_EXCHANGE = struct.Struct("<QQIIH6xQQIIH6xQ")
_MEMORY_MAP = struct.Struct("<I4xQ")
_E820_ENTRY = struct.Struct("<QQI")
_MACHPHYS_MAPPING = struct.Struct("<QQQ")
_MFN_LIST = struct.Struct("<I4xQI4x")
_E820_RAM = 1
_MAX_EXTENTS = 1 << 20
_MAX_ORDER = 9


class Memory(IntEnum):
    """XENMEM_*"""

    INCREASE_RESERVATION = 0
    DECREASE_RESERVATION = 1
    MAXIMUM_RAM_PAGE = 2
    CURRENT_RESERVATION = 3
    MAXIMUM_RESERVATION = 4
    MACHPHYS_MFN_LIST = 5
    POPULATE_PHYSMAP = 6
    MEMORY_MAP = 9
    EXCHANGE = 11
    MACHPHYS_MAPPING = 12


def memory_op(cpu: Cpu, command: int, argument: int) -> int:
    """One XENMEM operation."""
    machine = cpu.machine
    match command & 0x3F:
        case Memory.MAXIMUM_RAM_PAGE:
            return machine.layout.max_mfn - 1
        case Memory.CURRENT_RESERVATION:
            _own_domain(cpu.read(argument, 2))
            return machine.layout.nr_pages - len(machine.ballooned)
        case Memory.MAXIMUM_RESERVATION:
            _own_domain(cpu.read(argument, 2))
            return machine.layout.nr_pages
        case Memory.MACHPHYS_MAPPING:
            cpu.write(argument, _MACHPHYS_MAPPING.pack(
                machine.m2p_va, machine.m2p_va + machine.layout.m2p_bytes,
                machine.layout.max_mfn - 1))
            return 0
        case Memory.MACHPHYS_MFN_LIST:
            return _machphys_mfn_list(cpu, argument)
        case Memory.MEMORY_MAP:
            return _memory_map(cpu, argument)
        case Memory.DECREASE_RESERVATION:
            return _decrease(cpu, argument)
        case Memory.INCREASE_RESERVATION | Memory.POPULATE_PHYSMAP as operation:
            return _increase(cpu, argument, set_m2p=operation == Memory.POPULATE_PHYSMAP)
        case Memory.EXCHANGE:
            return _exchange(cpu, argument)
    raise HypercallError(errno.ENOSYS)


def _own_domain(domid: bytes) -> None:
    if int.from_bytes(domid, "little") != DOMID_SELF:
        raise HypercallError(errno.EPERM)


def _memory_map(cpu: Cpu, argument: int) -> int:
    entries, buffer = _MEMORY_MAP.unpack(cpu.read(argument, _MEMORY_MAP.size))
    if not entries:
        raise HypercallError(errno.ENOBUFS)
    size = cpu.machine.layout.nr_pages << PAGE_SHIFT
    cpu.write(buffer, _E820_ENTRY.pack(0, size, _E820_RAM))
    cpu.write(argument, (1).to_bytes(4, "little"))
    return 0


def _machphys_mfn_list(cpu: Cpu, argument: int) -> int:
    count, pointer, _ = _MFN_LIST.unpack(cpu.read(argument, _MFN_LIST.size))
    layout = cpu.machine.layout
    extents = range(layout.m2p_gpa, layout.m2p_gpa + layout.m2p_bytes, 2 << 20)[:count]
    cpu.write(pointer, array("Q", (gpa >> PAGE_SHIFT for gpa in extents)).tobytes())
    cpu.write(argument + 16, len(extents).to_bytes(4, "little"))
    return 0


def _reservation(cpu: Cpu, argument: int) -> tuple[int, int, int]:
    """(pointer to the extents, how many, frames in each)."""
    pointer, count, order, _, domid = _RESERVATION.unpack(cpu.read(argument, _RESERVATION.size))
    if domid != DOMID_SELF:
        raise HypercallError(errno.EPERM)
    if count > _MAX_EXTENTS or order > _MAX_ORDER:
        raise HypercallError(errno.EINVAL)
    return pointer, count, 1 << order


def _decrease(cpu: Cpu, argument: int) -> int:
    """Returns how many extents went back, as the caller cannot otherwise know."""
    pointer, count, frames = _reservation(cpu, argument)
    machine = cpu.machine
    for done in range(count):
        mfn = int.from_bytes(cpu.read(pointer + done * 8, 8), "little")
        extent = range(mfn, mfn + frames)
        if not all(cpu.tables.owns(f) and f not in machine.ballooned
                   and not cpu.tables.is_table(cpu.vcpu, f) for f in extent):
            return done
        for frame in extent:
            machine.balloon_out(frame)
    return count


def _increase(cpu: Cpu, argument: int, *, set_m2p: bool) -> int:
    pointer, count, frames = _reservation(cpu, argument)
    machine = cpu.machine
    for done in range(count):
        where = pointer + done * 8
        pfn = int.from_bytes(cpu.read(where, 8), "little")
        mfn = machine.balloon_in(frames)
        if mfn is None:
            return done
        if set_m2p:
            for i in range(frames):
                cpu.tables.set_m2p(mfn + i, pfn + i)
        cpu.write(where, mfn.to_bytes(8, "little"))
    return count


def _exchange(cpu: Cpu, argument: int) -> int:
    """Swap frames for ones that lie together, where there are such in the balloon."""
    fields = _EXCHANGE.unpack(cpu.read(argument, _EXCHANGE.size))
    pointer, count, order, _, domid, out_pointer, out_count, out_order, _, out_domid, done = fields
    if domid != DOMID_SELF or out_domid != DOMID_SELF:
        raise HypercallError(errno.EPERM)
    if (
        done or order > _MAX_ORDER or out_order > _MAX_ORDER or count > _MAX_EXTENTS
        or count << order != out_count << out_order
    ):
        raise HypercallError(errno.EINVAL)
    frames = [
        first + i
        for first in array("Q", cpu.read(pointer, count * 8))
        for i in range(1 << order)
    ]
    if not all(
        cpu.tables.owns(f) and f not in cpu.machine.ballooned
        and not cpu.tables.is_table(cpu.vcpu, f) for f in frames
    ) or len(set(frames)) != len(frames):
        raise HypercallError(errno.EINVAL)
    size = 1 << out_order
    for index in range(out_count):
        chunk = frames[index * size : (index + 1) * size]
        if chunk != list(range(chunk[0], chunk[0] + size)):
            raise HypercallError(errno.ENOMEM)
    for index in range(out_count):
        pfn = int.from_bytes(cpu.read(out_pointer + index * 8, 8), "little")
        first = frames[index * size]
        for i in range(size):
            cpu.machine.memory.zero(first + i << PAGE_SHIFT, PAGE_SIZE)
            cpu.tables.set_m2p(first + i, pfn + i)
        cpu.write(out_pointer + index * 8, first.to_bytes(8, "little"))
    cpu.write(argument + 64, count.to_bytes(8, "little"))
    return 0
