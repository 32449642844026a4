"""GNTTABOP_map_grant_ref, unmap_grant_ref and unmap_and_replace: the guest's own mappings.

Source: xen/common/grant_table.c, xen/arch/x86/pv/grant_table.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.grant_table import (
    MAP_AVAIL_SHIFT,
    MAP_CONTAINS_PTE,
    MAP_DEVICE,
    MAP_HOST,
    GnttabMapGrantRef,
    GnttabOp,
    GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
    GrantStatus,
)
from kvmxen.xen.abi.xen import DOMID_GUEST
from kvmxen.xen.grants import GrantError
from kvmxen.xen.hypercalls.grant_table_op import refusal, structures
from kvmxen.xen.maptrack import Mapping

_Undone = list[tuple[Mapping, int]]


def map_grant_ref(cpu: Cpu, argument: int, count: int) -> None:
    """Map `count` of the domain's own grants."""
    flush = False
    try:
        for at, request in structures(cpu, argument, count, GnttabMapGrantRef):
            try:
                handle, gpa = _map(cpu, request)
                flush = True
                answer = request.replace(status=GrantStatus.OKAY, handle=handle, dev_bus_addr=gpa)
            except GrantError as error:
                answer = request.replace(status=error.status)
            answer.store(cpu, at)
    finally:
        if flush:
            _flush(cpu)


def _map(cpu: Cpu, request: GnttabMapGrantRef) -> tuple[int, int]:
    """Map a grant; returns its handle and machine address; raises GrantError."""
    host_addr, flags, reference, domid, _, _, _ = request
    if not flags & (MAP_DEVICE | MAP_HOST):
        raise GrantError(reference, GrantStatus.BAD_GNTREF)
    if domid != DOMID_GUEST:
        raise GrantError(reference, refusal(domid, reference))
    maptrack = cpu.machine.maptrack
    mapping = maptrack.pin(reference, flags)
    kinds = flags & (MAP_DEVICE | MAP_HOST)
    handle = maptrack.reserve()
    if handle is None:
        maptrack.unpin(mapping, kinds)
        raise GrantError(reference, GrantStatus.NO_SPACE)
    if flags & MAP_HOST:
        try:
            _store(cpu, host_addr, mapping, _entry(mapping, flags))
        except HypercallError:
            maptrack.cancel(handle)
            maptrack.unpin(mapping, kinds)
            raise GrantError(reference, GrantStatus.GENERAL_ERROR) from None
    maptrack.publish(handle, mapping)
    return handle, mapping.gpa


def _entry(mapping: Mapping, flags: int) -> int:
    """The page-table entry of a mapping (grant_to_pte_flags())."""
    available = (flags >> MAP_AVAIL_SHIFT & 7) << x86.PTE_AVAILABLE_SHIFT
    write = x86.PTE_WRITE if mapping.write else 0
    used = x86.PTE_DIRTY | x86.PTE_ACCESSED
    return mapping.gpa | x86.PTE_NX | available | used | write | x86.PTE_PRESENT


def _store(cpu: Cpu, address: int, mapping: Mapping, entry: int) -> None:
    if mapping.flags & MAP_CONTAINS_PTE:
        cpu.tables.update(cpu.vcpu, address, entry)
    else:
        cpu.tables.update_va(cpu.vcpu, address, entry)


def unmap_grant_ref(cpu: Cpu, argument: int, count: int) -> None:
    """Undo `count` mappings."""

    def unmap(request: GnttabUnmapGrantRef, undone: _Undone) -> GrantStatus:
        return _unmap(cpu, request.handle, request.host_addr, request.dev_bus_addr, 0, undone)

    _unmap_all(cpu, argument, count, GnttabUnmapGrantRef, unmap)


def unmap_and_replace(cpu: Cpu, argument: int, count: int) -> None:
    """Undo `count` mappings; each is replaced by the entry of another address."""

    def unmap(request: GnttabUnmapAndReplace, undone: _Undone) -> GrantStatus:
        return _unmap(cpu, request.handle, request.host_addr, 0, request.new_addr, undone)

    _unmap_all(cpu, argument, count, GnttabUnmapAndReplace, unmap)


_Unmap = TypeVar("_Unmap", GnttabUnmapGrantRef, GnttabUnmapAndReplace)


def _unmap_all(
    cpu: Cpu,
    argument: int,
    count: int,
    kind: type[_Unmap],
    unmap: Callable[[_Unmap, _Undone], GrantStatus],
) -> None:
    undone: _Undone = []
    try:
        for at, request in structures(cpu, argument, count, kind):
            kind.status.store(cpu, at, unmap(request, undone))
    finally:
        # The guest may see that a grant is free only when no translation of it is left.
        if undone:
            _flush(cpu)
        for mapping, kinds in undone:
            cpu.machine.maptrack.unpin(mapping, kinds)


def _unmap(cpu: Cpu, handle: int, address: int, bus: int, new: int, undone: _Undone) -> GrantStatus:
    maptrack = cpu.machine.maptrack
    mapping = maptrack.find(handle)
    if mapping is None:
        return GrantStatus.BAD_HANDLE
    kinds = 0
    if bus and mapping.flags & MAP_DEVICE:
        if bus != mapping.gpa:
            return GrantStatus.BAD_DEV_ADDR
        kinds |= MAP_DEVICE
    if address and mapping.flags & MAP_HOST:
        try:
            _replace(cpu, address, mapping, new)
        except HypercallError:
            return GrantStatus.GENERAL_ERROR
        kinds |= MAP_HOST
    if kinds:
        undone.append((mapping, maptrack.release(handle, mapping, kinds)))
    return GrantStatus.OKAY


def _replace(cpu: Cpu, address: int, mapping: Mapping, new: int) -> None:
    """Replace the entry of `mapping` at `address` by the entry of `new`, or by 0 if `new` is 0.

    Raises HypercallError if it is not mapped there (replace_grant_pv_mapping()).
    """
    entry = 0
    if mapping.flags & MAP_CONTAINS_PTE:
        if new or address & 7 or not cpu.tables.owns(address >> PAGE_SHIFT):
            raise HypercallError(errno.EINVAL)
        where = address
    else:
        if new:
            source = _leaf(cpu, new)
            entry = cpu.machine.memory.read_u64(source)
            cpu.tables.update(cpu.vcpu, source, 0)
        where = _leaf(cpu, address)
    old = cpu.machine.memory.read_u64(where)
    expected = mapping.gpa | x86.PTE_PRESENT | (x86.PTE_WRITE if mapping.write else 0)
    if old & (x86.PTE_FRAME | x86.PTE_PRESENT | x86.PTE_WRITE) != expected:
        raise HypercallError(errno.EINVAL)
    _store(cpu, address, mapping, entry)


def _leaf(cpu: Cpu, address: int) -> int:
    """The gpa of the L1 entry of `address`; raises HypercallError if there is none."""
    table = cpu.vcpu.kernel_cr3
    for level in (4, 3, 2, 1):
        slot = address >> 12 + 9 * (level - 1) & 511
        is_xens = level == 4 and slot - xen.XEN_FIRST_SLOT in range(xen.XEN_SLOTS)
        if is_xens or not cpu.tables.owns(table >> PAGE_SHIFT):
            raise HypercallError(errno.EINVAL)
        where = table + slot * 8
        if level > 1:
            value = cpu.machine.memory.read_u64(where)
            if not value & x86.PTE_PRESENT or value & x86.PTE_LARGE:
                raise HypercallError(errno.EINVAL)
            table = value & x86.PTE_FRAME
    return where


def _flush(cpu: Cpu) -> None:
    cpu.vcpu.flush_tlb()
    cpu.machine.flush_others(cpu)


# For grant_table_op.
LISTS: dict[int, Callable[[Cpu, int, int], None]] = {
    GnttabOp.MAP_GRANT_REF: map_grant_ref,
    GnttabOp.UNMAP_GRANT_REF: unmap_grant_ref,
    GnttabOp.UNMAP_AND_REPLACE: unmap_and_replace,
}
