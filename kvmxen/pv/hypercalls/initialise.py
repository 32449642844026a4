"""VCPUOP_initialise: the first state of a vCPU that the guest starts.

Source: struct vcpu_guest_context of xen/include/public/arch-x86/xen.h.
"""

from __future__ import annotations

import errno

from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.hypercalls.segments import MAX_GDT_ENTRIES, gdt_pages, load_gdt
from kvmxen.pv.hypercalls.traps import set_callbacks, set_trap
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.arch_xen import VcpuGuestContext


def initialise(cpu: Cpu, index: int, argument: int) -> None:
    """Load a struct vcpu_guest_context into vCPU `index`, if it is not initialised."""
    target = cpu.machine.cpus[index]
    if target.initialised:
        raise HypercallError(errno.EEXIST)
    context = VcpuGuestContext.load(cpu, argument)
    bases = context.fs_base, context.gs_base_kernel, context.gs_base_user
    if context.gdt_ents > MAX_GDT_ENTRIES or not all(map(x86.is_canonical, bases)):
        raise HypercallError(errno.EINVAL)
    for vector, trap in enumerate(context.trap_ctxt):
        set_trap(target, vector, trap)
    load_gdt(target, list(context.gdt_frames[: gdt_pages(context.gdt_ents)]))
    set_callbacks(
        target,
        context.event_callback_eip,
        context.failsafe_callback_eip,
        context.syscall_callback_eip,
    )
    target.kernel_sp = context.kernel_sp
    # xen_pfn_to_cr3: on x86-64 the frame has the same place as in the CPU's cr3.
    kernel, user = context.ctrlreg[3] >> PAGE_SHIFT, context.ctrlreg[1] >> PAGE_SHIFT
    target.set_base_pointers(kernel, user, cpu)
    target.set_registers(context.user_regs)
    for msr, base in (
        (x86.MSR_FS_BASE, context.fs_base),
        (x86.MSR_GS_BASE, context.gs_base_kernel),
        (x86.MSR_KERNEL_GS_BASE, context.gs_base_user),
    ):
        target.initial_msrs[msr] = base
    target.initialised = True
