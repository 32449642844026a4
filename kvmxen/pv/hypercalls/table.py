"""The hypercall table: each number's handler, and how many arguments it takes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from kvmxen.errors import HypercallError
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.hypercalls import (
    grant_map,
    initialise,
    machine_frames,
    mmu,
    multicall,
    physdev_op,
    segments,
    traps,
    vm_assist,
)
from kvmxen.xen.abi.xen import Hypercall
from kvmxen.xen.hypercalls import (
    console_io,
    event_channel_op,
    grant_table_op,
    memory_op,
    sched_op,
    toolstack,
    vcpu_op,
    version,
)


class Entry(NamedTuple):
    """A handler takes the calling Cpu and `arguments` arguments. It returns the result, or None if
    it loaded every register itself, or raises HypercallError."""

    handler: Callable[..., int | None]
    arguments: int


def hypercall(cpu: Cpu, number: int, arguments: Sequence[int]) -> int | None:
    """Run hypercall `number` for `cpu`; returns its result, or None if it set the registers
    itself."""
    entry = TABLE.get(number)
    cpu.vcpu.count_hypercall(number)
    if entry is None:
        result: int | None = -errno.ENOSYS
    else:
        try:
            result = entry.handler(cpu, *arguments[: entry.arguments])
        except HypercallError as error:
            result = -error.errno
    if cpu.on_hypercall:
        cpu.on_hypercall(number, arguments, result)
    return result


TABLE: dict[int, Entry] = {
    Hypercall.set_trap_table: Entry(traps.set_trap_table, 1),
    Hypercall.mmu_update: Entry(mmu.mmu_update, 4),
    Hypercall.set_gdt: Entry(segments.set_gdt, 2),
    Hypercall.stack_switch: Entry(traps.stack_switch, 2),
    Hypercall.set_callbacks: Entry(traps.set_callbacks, 3),
    Hypercall.fpu_taskswitch: Entry(traps.fpu_taskswitch, 1),
    Hypercall.sched_op_compat: Entry(sched_op.sched_op_compat, 2),
    Hypercall.set_debugreg: Entry(traps.set_debugreg, 2),
    Hypercall.get_debugreg: Entry(traps.get_debugreg, 1),
    Hypercall.update_descriptor: Entry(segments.update_descriptor, 2),
    Hypercall.memory_op: Entry(partial(memory_op.memory_op, machine_frames.OPERATIONS), 2),
    Hypercall.multicall: Entry(partial(multicall.multicall, hypercall), 2),
    Hypercall.update_va_mapping: Entry(mmu.update_va_mapping, 3),
    Hypercall.set_timer_op: Entry(vcpu_op.set_timer_op, 1),
    Hypercall.event_channel_op_compat: Entry(event_channel_op.event_channel_op_compat, 1),
    Hypercall.xen_version: Entry(version.xen_version, 2),
    Hypercall.console_io: Entry(console_io.console_io, 3),
    Hypercall.grant_table_op: Entry(partial(grant_table_op.grant_table_op, grant_map.LISTS), 3),
    Hypercall.vm_assist: Entry(vm_assist.vm_assist, 2),
    Hypercall.update_va_mapping_otherdomain: Entry(mmu.update_va_mapping_otherdomain, 4),
    Hypercall.iret: Entry(traps.iret, 0),
    Hypercall.vcpu_op: Entry(partial(vcpu_op.vcpu_op, initialise.initialise), 3),
    Hypercall.set_segment_base: Entry(segments.set_segment_base, 2),
    Hypercall.mmuext_op: Entry(mmu.mmuext_op, 4),
    Hypercall.nmi_op: Entry(traps.nmi_op, 2),
    Hypercall.sched_op: Entry(sched_op.sched_op, 2),
    Hypercall.callback_op: Entry(traps.callback_op, 2),
    Hypercall.event_channel_op: Entry(event_channel_op.event_channel_op, 2),
    Hypercall.physdev_op: Entry(physdev_op.physdev_op, 2),
    Hypercall.platform_op: Entry(toolstack.refuse, 0),
    Hypercall.sysctl: Entry(toolstack.refuse, 0),
    Hypercall.domctl: Entry(toolstack.refuse, 0),
    Hypercall.kexec_op: Entry(toolstack.refuse, 0),
    Hypercall.hypfs_op: Entry(toolstack.refuse, 0),
    Hypercall.mca: Entry(toolstack.refuse, 0),
}
