"""The domain builder for 64-bit PV: fills a domain's memory with what its kernel expects."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmxen.errors import UsageError
from kvmxen.kvm.layout import PAGE_SHIFT, Layout
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.frames import fill_m2p, fill_p2m, write
from kvmxen.loader.hypercall_page import HYPERCALL_PAGE
from kvmxen.loader.pagetables import InitialPageTables
from kvmxen.loader.plan import plan_pv
from kvmxen.xen.abi.start_info import MAX_GUEST_CMDLINE, StartInfo, StartInfoFlags

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from kvmxen.kvm.memory import GuestMemory


@dataclass(frozen=True)
class PvStart:
    """The first vCPU's initial state, and the frames that host and guest share from the start.

    `entry` (RIP), `stack` (RSP) and `start_info` (RSI) are virtual addresses, `cr3` is the gpa of
    the top page table.
    """

    entry: int
    cr3: int
    stack: int
    start_info: int
    store_mfn: int
    console_mfn: int


def build(
    memory: GuestMemory,
    layout: Layout,
    kernel: ElfKernel,
    ramdisk: Buffer | None,
    cmdline: str,
    *,
    console_port: int,
    store_port: int,
) -> PvStart:
    """Build a domain in `memory`, which must be fresh (all zero).

    The ports are the guest's ends of the console's and xenstore's event channels. Raises
    KvmxenError if the parts do not fit the guest's memory, and UsageError if `cmdline` does not fit
    start_info.
    """
    command = _command_line(cmdline)
    disk = memoryview(b"" if ramdisk is None else ramdisk).cast("B")
    notes = kernel.notes
    plan = plan_pv(kernel, layout.nr_pages, len(disk))

    for segment in kernel.segments:
        write(memory, layout, segment.paddr - notes.paddr_offset, segment.data)
    if notes.hypercall_page is not None:
        write(memory, layout, notes.hypercall_page - notes.virt_base, HYPERCALL_PAGE)
    write(memory, layout, plan.ramdisk << PAGE_SHIFT, disk)
    fill_p2m(memory, layout, plan.p2m.pfn)
    fill_m2p(memory, layout)

    tables = InitialPageTables(memory, layout)
    tables.map(plan.region, plan.tables)
    if plan.p2m_tables:
        tables.map(plan.p2m, plan.p2m.pfn + plan.p2m.frames)

    flags = StartInfoFlags.VIRT_P2M_4TOOLS
    mod_start = 0
    if disk:
        mod_start = plan.ramdisk if notes.mod_start_pfn else plan.va(plan.ramdisk)
        flags |= StartInfoFlags.MOD_START_PFN if notes.mod_start_pfn else 0
    info = StartInfo(
        magic=b"xen-3.0-x86_64",
        nr_pages=layout.nr_pages,
        shared_info=layout.shared_info_mfn << PAGE_SHIFT,
        flags=flags,
        store_mfn=layout.mfn(plan.store),
        store_evtchn=store_port,
        console_mfn=layout.mfn(plan.console),
        console_evtchn=console_port,
        pt_base=plan.va(plan.tables),
        nr_pt_frames=plan.nr_tables,
        mfn_list=plan.p2m.va,
        mod_start=mod_start,
        mod_len=len(disk),
        cmd_line=command,
        first_p2m_pfn=plan.p2m.pfn if plan.p2m_tables else 0,
        nr_p2m_frames=plan.p2m.frames + plan.p2m_tables if plan.p2m_tables else 0,
    )
    write(memory, layout, plan.start_info << PAGE_SHIFT, info.pack())
    return PvStart(
        entry=kernel.entry,
        cr3=layout.mfn(plan.tables) << PAGE_SHIFT,
        stack=plan.va(plan.stack + 1),
        start_info=plan.va(plan.start_info),
        store_mfn=layout.mfn(plan.store),
        console_mfn=layout.mfn(plan.console),
    )


def _command_line(cmdline: str) -> bytes:
    command = os.fsencode(cmdline)
    if b"\0" in command:
        raise UsageError("the kernel command line contains a NUL; remove it")
    if len(command) >= MAX_GUEST_CMDLINE:
        raise UsageError(
            f"the kernel command line has {len(command)} bytes, but Xen's start_info holds "
            f"{MAX_GUEST_CMDLINE - 1}; shorten it"
        )
    return command
