"""Descriptor tables and segment bases.

The CPU only loads the validated copies in the shim's memory; only the guest reads its own
tables. Source: xen/arch/x86/pv/descriptor-tables.c.
"""

from __future__ import annotations

import errno
from array import array

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.kvm.structs import Segment
from kvmxen.pv.cpu import Cpu
from kvmxen.xen.abi import x86, xen

ENTRIES_PER_PAGE = 512
# The GDT's pages 14 and 15 are Xen's (xen/include/public/arch-x86/xen.h).
MAX_GDT_FRAMES = 14
MAX_GDT_ENTRIES = MAX_GDT_FRAMES * ENTRIES_PER_PAGE
MAX_LDT_ENTRIES = 8192

_TYPE = 0x1F << x86.DESC_TYPE_SHIFT
_IN_USE = x86.DESC_PRESENT | x86.DESC_SEGMENT


def validate(descriptor: int) -> int:
    """The descriptor in the form that the CPU may load: ring 3, no gate, no system segment.

    One that is not present, or of type 0, can only fault. Raises HypercallError(EINVAL).
    """
    if not descriptor & x86.DESC_PRESENT or not descriptor & _TYPE:
        return descriptor
    if not descriptor & x86.DESC_SEGMENT:
        raise HypercallError(errno.EINVAL)
    return descriptor | x86.DESC_DPL3


def _loaded(descriptor: int) -> int:
    """The valid `descriptor` for the CPU's copy: marked accessed, because ring 3's view of the
    copies is read-only, for the CPU too."""
    used = descriptor & _IN_USE == _IN_USE
    return descriptor | x86.DESC_ACCESSED if used else descriptor


def _copied(table: bytes) -> bytes:
    return array("Q", (_loaded(validate(entry)) for entry in array("Q", table))).tobytes()


def set_gdt(cpu: Cpu, frames: int, entries: int) -> int:
    """Load the GDT from the frames listed at `frames`, `entries` entries long."""
    entries &= 0xFFFFFFFF
    if entries > MAX_GDT_ENTRIES:
        raise HypercallError(errno.EINVAL)
    load_gdt(cpu, list(array("Q", cpu.read(frames, gdt_pages(entries) * 8))))
    return 0


def gdt_pages(entries: int) -> int:
    """How many pages a GDT of `entries` entries has."""
    return -(-entries // ENTRIES_PER_PAGE)


def load_gdt(cpu: Cpu, frames: list[int]) -> None:
    """Copy the GDT in machine frames `frames` to the shim; raises HypercallError(EINVAL)."""
    if len(frames) > MAX_GDT_FRAMES or not all(map(cpu.tables.owns, frames)):
        raise HypercallError(errno.EINVAL)
    memory = cpu.machine.memory
    with cpu.machine.descriptor_lock:
        pages = [_copied(memory.read(mfn << PAGE_SHIFT, PAGE_SIZE)) for mfn in frames]
        memory.zero(cpu.gdt_gpa, MAX_GDT_FRAMES * PAGE_SIZE)
        for index, page in enumerate(pages):
            memory.write(cpu.gdt_gpa + index * PAGE_SIZE, page)
        cpu.gdt_frames = frames


def set_ldt(cpu: Cpu, va: int, entries: int) -> None:
    """MMUEXT_SET_LDT: load the LDT at `va`, `entries` entries long; 0 for none."""
    if entries > MAX_LDT_ENTRIES or va % PAGE_SIZE:
        raise HypercallError(errno.EINVAL)
    pages = range(va, va + entries * 8, PAGE_SIZE)
    with cpu.machine.descriptor_lock:
        if entries:
            cpu.machine.memory.write(cpu.ldt_gpa, _copied(cpu.read(va, entries * 8)))
        cpu.ldt_frames = [cpu.translate(page) >> PAGE_SHIFT for page in pages]
    cpu.load_ldt(entries)


def update_descriptor(cpu: Cpu, address: int, descriptor: int) -> int:
    """Store `descriptor` at machine address `address`, in a GDT, in an LDT or elsewhere."""
    memory = cpu.machine.memory
    mfn, offset = address >> PAGE_SHIFT, address % PAGE_SIZE
    if offset % 8 or not cpu.tables.owns(mfn) or cpu.tables.is_table(mfn):
        raise HypercallError(errno.EINVAL)
    copy = validate(descriptor)
    with cpu.machine.descriptor_lock:
        memory.write_u64(address, copy)
        for other in cpu.machine.cpus:
            for frames, gpa in (other.gdt_frames, other.gdt_gpa), (other.ldt_frames, other.ldt_gpa):
                for index, frame in enumerate(frames):
                    if frame == mfn:
                        memory.write_u64(gpa + index * PAGE_SIZE + offset, _loaded(copy))
    return 0


def set_segment_base(cpu: Cpu, which: int, base: int) -> int:
    """Set the base of FS or one of GS, or load the user's GS from a selector."""
    which &= 0xFFFFFFFF
    # The dispatcher may have left one of them to be written on the return to the guest.
    cpu.vcpu.flush()
    if which == xen.SEGBASE_GS_USER_SEL:
        _load_user_gs(cpu, base & 0xFFFF)
        return 0
    registers = {
        xen.SEGBASE_FS: x86.MSR_FS_BASE,
        xen.SEGBASE_GS_USER: x86.MSR_KERNEL_GS_BASE,
        xen.SEGBASE_GS_KERNEL: x86.MSR_GS_BASE,
    }
    if which not in registers or not x86.is_canonical(base):
        raise HypercallError(errno.EINVAL)
    cpu.fd.set_msr(registers[which], base)
    return 0


def _load_user_gs(cpu: Cpu, selector: int) -> None:
    """Load the user's GS from a selector of the guest's GDT or LDT; null if it cannot be read."""
    descriptor = 0
    if selector & ~3:
        table, frames = (
            (cpu.ldt_gpa, cpu.ldt_frames) if selector & 4 else (cpu.gdt_gpa, cpu.gdt_frames)
        )
        if selector >> 3 < len(frames) * ENTRIES_PER_PAGE:
            descriptor = cpu.machine.memory.read_u64(table + (selector & ~7))
    unreadable = descriptor & (x86.DESC_CODE | x86.DESC_READ_WRITE) == x86.DESC_CODE
    if selector & ~3 and (not descriptor & x86.DESC_PRESENT or unreadable):
        selector = descriptor = 0
    present = bool(descriptor & x86.DESC_PRESENT)
    base = descriptor >> 16 & 0xFFFFFF | descriptor >> 56 << 24
    sregs = cpu.fd.get_sregs()
    if sregs.gs.selector != selector:
        limit = descriptor & 0xFFFF | (descriptor >> 48 & 0xF) << 16
        granular = bool(descriptor & x86.DESC_GRANULAR)
        sregs.gs = Segment(
            base=sregs.gs.base,
            limit=limit << 12 | 0xFFF if granular else limit,
            selector=selector,
            type=(descriptor | x86.DESC_ACCESSED) >> x86.DESC_TYPE_SHIFT & 0xF,
            present=present,
            dpl=3,
            db=bool(descriptor & x86.DESC_DB),
            s=1,
            g=granular,
            unusable=not present,
        )
        cpu.fd.set_sregs(sregs)
    cpu.fd.set_msr(x86.MSR_KERNEL_GS_BASE, base)
