"""Page tables: mmu_update, update_va_mapping and mmuext_op.

Source: xen/include/public/xen.h; semantics of xen/arch/x86/mm.c.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from enum import IntEnum

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.hypercalls.segments import set_ldt
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.xen import DOMID_SELF, MmuextOp

# Bounds the work of one hypercall; a larger count is an error, as no guest batches so much.
MAX_BATCH = 1 << 16
_PREEMPTED = 1 << 31


class MmuExt(IntEnum):
    """MMUEXT_*"""

    PIN_L1_TABLE = xen.MMUEXT_PIN_L1_TABLE
    PIN_L4_TABLE = xen.MMUEXT_PIN_L4_TABLE
    UNPIN_TABLE = xen.MMUEXT_UNPIN_TABLE
    NEW_BASEPTR = xen.MMUEXT_NEW_BASEPTR
    TLB_FLUSH_LOCAL = xen.MMUEXT_TLB_FLUSH_LOCAL
    INVLPG_LOCAL = xen.MMUEXT_INVLPG_LOCAL
    TLB_FLUSH_MULTI = xen.MMUEXT_TLB_FLUSH_MULTI
    INVLPG_MULTI = xen.MMUEXT_INVLPG_MULTI
    TLB_FLUSH_ALL = xen.MMUEXT_TLB_FLUSH_ALL
    INVLPG_ALL = xen.MMUEXT_INVLPG_ALL
    FLUSH_CACHE = xen.MMUEXT_FLUSH_CACHE
    SET_LDT = xen.MMUEXT_SET_LDT
    NEW_USER_BASEPTR = xen.MMUEXT_NEW_USER_BASEPTR
    CLEAR_PAGE = xen.MMUEXT_CLEAR_PAGE
    COPY_PAGE = xen.MMUEXT_COPY_PAGE
    FLUSH_CACHE_GLOBAL = xen.MMUEXT_FLUSH_CACHE_GLOBAL


def _check_batch(count: int, domid: int) -> int:
    count &= 0xFFFFFFFF
    if count & _PREEMPTED or count > MAX_BATCH:
        raise HypercallError(errno.EINVAL)
    if domid & 0xFFFFFFFF != DOMID_SELF:
        raise HypercallError(errno.EPERM)
    return count


def _begun(cpu: Cpu, count: int) -> int:
    """How many operations of the list the dispatcher has done already."""
    return min(cpu.vcpu.take_done(), count)


def _tell(cpu: Cpu, done: int, succeeded: int) -> None:
    """Write how many operations succeeded to `done`, which the list may have unmapped."""
    if done:
        with suppress(GuestFault):
            cpu.write_u32(done, succeeded)


def mmu_update(cpu: Cpu, requests: int, count: int, done: int, domid: int) -> int:
    """Install `count` page-table or machine-to-physical entries."""
    count = _check_batch(count, domid)
    begun = _begun(cpu, count)
    succeeded, error = cpu.tables.update_many(cpu.vcpu, requests + begun * 16, count - begun)
    _tell(cpu, done, begun + succeeded)
    if error:
        raise HypercallError(error)
    return 0


def update_va_mapping(cpu: Cpu, va: int, value: int, flags: int) -> int:
    """Install the L1 entry of `va` and flush as `flags` says."""
    cpu.tables.update_va(cpu.vcpu, va, value)
    kind = flags & xen.UVMF_FLUSHTYPE_MASK
    if kind not in (xen.UVMF_TLB_FLUSH, xen.UVMF_INVLPG):
        return 0
    if kind == xen.UVMF_INVLPG:
        cpu.vcpu.invlpg(va)
    else:
        cpu.vcpu.flush_tlb()
    scope = flags & ~xen.UVMF_FLUSHTYPE_MASK
    if scope == xen.UVMF_ALL:
        cpu.machine.flush_others(cpu)
    elif scope:
        cpu.machine.flush_others(cpu, _vcpu_mask(cpu, scope))
    return 0


def update_va_mapping_otherdomain(cpu: Cpu, va: int, value: int, flags: int, domid: int) -> int:
    """update_va_mapping with a frame of `domid`, which must be the domain itself."""
    if domid & 0xFFFFFFFF != DOMID_SELF:
        raise HypercallError(errno.EPERM)
    return update_va_mapping(cpu, va, value, flags)


def mmuext_op(cpu: Cpu, operations: int, count: int, done: int, domid: int) -> int:
    """Perform `count` extended page-table operations."""
    count = _check_batch(count, domid)
    succeeded = _begun(cpu, count)
    try:
        for i in range(succeeded, count):
            if cpu.machine.stopping:
                break
            _mmuext(cpu, *MmuextOp.load(cpu, operations + i * MmuextOp.bits64.size))
            succeeded += 1
    finally:
        _tell(cpu, done, succeeded)
    return 0


def _mmuext(cpu: Cpu, command: int, arg1: int, arg2: int) -> None:
    tables, vcpu, machine = cpu.tables, cpu.vcpu, cpu.machine
    match command:
        case MmuExt.NEW_BASEPTR:
            tables.set_kernel_base(vcpu, arg1)
        case MmuExt.NEW_USER_BASEPTR:
            tables.set_user_base(vcpu, arg1)
        case MmuExt.UNPIN_TABLE:
            tables.unpin(vcpu, arg1)
        case _ if MmuExt.PIN_L1_TABLE <= command <= MmuExt.PIN_L4_TABLE:
            tables.pin(vcpu, arg1, command + 1)
        case MmuExt.TLB_FLUSH_LOCAL:
            vcpu.flush_tlb()
        case MmuExt.INVLPG_LOCAL:
            vcpu.invlpg(arg1)
        case MmuExt.TLB_FLUSH_MULTI | MmuExt.INVLPG_MULTI:
            mask = _vcpu_mask(cpu, arg2)
            if mask >> cpu.index & 1:
                vcpu.flush_tlb()
            machine.flush_others(cpu, mask)
        case MmuExt.TLB_FLUSH_ALL | MmuExt.INVLPG_ALL:
            vcpu.flush_tlb()
            machine.flush_others(cpu)
        case MmuExt.FLUSH_CACHE | MmuExt.FLUSH_CACHE_GLOBAL:
            # Only a domain with devices may flush caches.
            raise HypercallError(errno.EACCES)
        case MmuExt.SET_LDT:
            set_ldt(cpu, arg1, arg2 & 0xFFFFFFFF)
        case MmuExt.CLEAR_PAGE:
            machine.memory.zero(_own_page(cpu, arg1), PAGE_SIZE)
        case MmuExt.COPY_PAGE:
            page = machine.memory.read(_own_page(cpu, arg2), PAGE_SIZE)
            machine.memory.write(_own_page(cpu, arg1), page)
        case _:
            raise HypercallError(errno.ENOSYS)


def _own_page(cpu: Cpu, mfn: int) -> int:
    if not cpu.tables.owns(mfn) or cpu.tables.is_table(mfn):
        raise HypercallError(errno.EINVAL)
    return mfn << PAGE_SHIFT


def _vcpu_mask(cpu: Cpu, pointer: int) -> int:
    """The bitmap of vCPUs at `pointer`, as long as the domain has vCPUs."""
    size = (len(cpu.machine.cpus) + 7) // 8
    return int.from_bytes(cpu.read(pointer, size), "little")
