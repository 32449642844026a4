"""The hypercall table: number to handler, and how many arguments it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvmxen.abi.xen import Hypercall as H
from kvmxen.hypercall import (
    console_io, event_channel_op, grant_table_op, memory_op, mmu, multicall, physdev_op,
    sched_op, segments, traps, vcpu_op, version,
)


class Entry(NamedTuple):
    """A handler takes the calling Cpu and `arguments` arguments; it returns the result, or
    None where it loaded every register itself; it raises HypercallError."""

    handler: Callable[..., int | None]
    arguments: int


TABLE: dict[int, Entry] = {
    H.set_trap_table: Entry(traps.set_trap_table, 1),
    H.mmu_update: Entry(mmu.mmu_update, 4),
    H.set_gdt: Entry(segments.set_gdt, 2),
    H.stack_switch: Entry(traps.stack_switch, 2),
    H.set_callbacks: Entry(traps.set_callbacks, 3),
    H.fpu_taskswitch: Entry(traps.fpu_taskswitch, 1),
    H.sched_op_compat: Entry(sched_op.sched_op_compat, 2),
    H.set_debugreg: Entry(traps.set_debugreg, 2),
    H.get_debugreg: Entry(traps.get_debugreg, 1),
    H.update_descriptor: Entry(segments.update_descriptor, 2),
    H.memory_op: Entry(memory_op.memory_op, 2),
    H.multicall: Entry(multicall.multicall, 2),
    H.update_va_mapping: Entry(mmu.update_va_mapping, 3),
    H.set_timer_op: Entry(vcpu_op.set_timer_op, 1),
    H.event_channel_op_compat: Entry(event_channel_op.event_channel_op_compat, 1),
    H.xen_version: Entry(version.xen_version, 2),
    H.console_io: Entry(console_io.console_io, 3),
    H.grant_table_op: Entry(grant_table_op.grant_table_op, 3),
    H.vm_assist: Entry(version.vm_assist, 2),
    H.update_va_mapping_otherdomain: Entry(mmu.update_va_mapping_otherdomain, 4),
    H.iret: Entry(traps.iret, 0),
    H.vcpu_op: Entry(vcpu_op.vcpu_op, 3),
    H.set_segment_base: Entry(segments.set_segment_base, 2),
    H.mmuext_op: Entry(mmu.mmuext_op, 4),
    H.nmi_op: Entry(traps.nmi_op, 2),
    H.sched_op: Entry(sched_op.sched_op, 2),
    H.callback_op: Entry(traps.callback_op, 2),
    H.event_channel_op: Entry(event_channel_op.event_channel_op, 2),
    H.physdev_op: Entry(physdev_op.physdev_op, 2),
}
