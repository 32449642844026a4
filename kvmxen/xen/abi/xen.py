"""Xen's public ABI: the numbers of our xen.h, each under its name there, and the structures of
Xen's that name hypercalls.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.xen.abi.headers import constants
from kvmxen.xen.abi.structure import U32, Array, Structure, ULong

_NUMBERS = constants(Path(__file__).with_suffix(".h"))
globals().update(_NUMBERS)
if TYPE_CHECKING:

    def __getattr__(name: str) -> int: ...


# The only domain besides dom0, which is this process.
DOMID_GUEST = 1
# The version of Xen whose ABI guests see: 4.17.
XEN_VERSION = 4 << 16 | 17


class Hypercall(IntEnum):
    """HYPERVISOR_*: the number in RAX."""

    set_trap_table = _NUMBERS["HYPERVISOR_set_trap_table"]
    mmu_update = _NUMBERS["HYPERVISOR_mmu_update"]
    set_gdt = _NUMBERS["HYPERVISOR_set_gdt"]
    stack_switch = _NUMBERS["HYPERVISOR_stack_switch"]
    set_callbacks = _NUMBERS["HYPERVISOR_set_callbacks"]
    fpu_taskswitch = _NUMBERS["HYPERVISOR_fpu_taskswitch"]
    sched_op_compat = _NUMBERS["HYPERVISOR_sched_op_compat"]
    platform_op = _NUMBERS["HYPERVISOR_platform_op"]
    set_debugreg = _NUMBERS["HYPERVISOR_set_debugreg"]
    get_debugreg = _NUMBERS["HYPERVISOR_get_debugreg"]
    update_descriptor = _NUMBERS["HYPERVISOR_update_descriptor"]
    memory_op = _NUMBERS["HYPERVISOR_memory_op"]
    multicall = _NUMBERS["HYPERVISOR_multicall"]
    update_va_mapping = _NUMBERS["HYPERVISOR_update_va_mapping"]
    set_timer_op = _NUMBERS["HYPERVISOR_set_timer_op"]
    event_channel_op_compat = _NUMBERS["HYPERVISOR_event_channel_op_compat"]
    xen_version = _NUMBERS["HYPERVISOR_xen_version"]
    console_io = _NUMBERS["HYPERVISOR_console_io"]
    physdev_op_compat = _NUMBERS["HYPERVISOR_physdev_op_compat"]
    grant_table_op = _NUMBERS["HYPERVISOR_grant_table_op"]
    vm_assist = _NUMBERS["HYPERVISOR_vm_assist"]
    update_va_mapping_otherdomain = _NUMBERS["HYPERVISOR_update_va_mapping_otherdomain"]
    iret = _NUMBERS["HYPERVISOR_iret"]
    vcpu_op = _NUMBERS["HYPERVISOR_vcpu_op"]
    set_segment_base = _NUMBERS["HYPERVISOR_set_segment_base"]
    mmuext_op = _NUMBERS["HYPERVISOR_mmuext_op"]
    xsm_op = _NUMBERS["HYPERVISOR_xsm_op"]
    nmi_op = _NUMBERS["HYPERVISOR_nmi_op"]
    sched_op = _NUMBERS["HYPERVISOR_sched_op"]
    callback_op = _NUMBERS["HYPERVISOR_callback_op"]
    xenoprof_op = _NUMBERS["HYPERVISOR_xenoprof_op"]
    event_channel_op = _NUMBERS["HYPERVISOR_event_channel_op"]
    physdev_op = _NUMBERS["HYPERVISOR_physdev_op"]
    hvm_op = _NUMBERS["HYPERVISOR_hvm_op"]
    sysctl = _NUMBERS["HYPERVISOR_sysctl"]
    domctl = _NUMBERS["HYPERVISOR_domctl"]
    kexec_op = _NUMBERS["HYPERVISOR_kexec_op"]
    tmem_op = _NUMBERS["HYPERVISOR_tmem_op"]
    argo_op = _NUMBERS["HYPERVISOR_argo_op"]
    xenpmu_op = _NUMBERS["HYPERVISOR_xenpmu_op"]
    dm_op = _NUMBERS["HYPERVISOR_dm_op"]
    hypfs_op = _NUMBERS["HYPERVISOR_hypfs_op"]
    mca = _NUMBERS["HYPERVISOR_mca"]


class Virq(IntEnum):
    """VIRQ_*: interrupts that Xen itself raises."""

    TIMER = _NUMBERS["VIRQ_TIMER"]
    DEBUG = _NUMBERS["VIRQ_DEBUG"]
    CONSOLE = _NUMBERS["VIRQ_CONSOLE"]
    DOM_EXC = _NUMBERS["VIRQ_DOM_EXC"]
    TBUF = _NUMBERS["VIRQ_TBUF"]
    DEBUGGER = _NUMBERS["VIRQ_DEBUGGER"]
    XENOPROF = _NUMBERS["VIRQ_XENOPROF"]
    CON_RING = _NUMBERS["VIRQ_CON_RING"]
    PCPU_STATE = _NUMBERS["VIRQ_PCPU_STATE"]
    MEM_EVENT = _NUMBERS["VIRQ_MEM_EVENT"]
    ARGO = _NUMBERS["VIRQ_ARGO"]
    ENOMEM = _NUMBERS["VIRQ_ENOMEM"]
    XENPMU = _NUMBERS["VIRQ_XENPMU"]


# The virqs that each vCPU has separately (xen/common/event_channel.c, get_virq_type).
PER_VCPU_VIRQS = frozenset({Virq.TIMER, Virq.DEBUG, Virq.XENOPROF, Virq.XENPMU})


class CallbackType(IntEnum):
    """CALLBACKTYPE_* (xen/include/public/callback.h): a way into the guest's kernel."""

    EVENT = _NUMBERS["CALLBACKTYPE_event"]
    FAILSAFE = _NUMBERS["CALLBACKTYPE_failsafe"]
    SYSCALL = _NUMBERS["CALLBACKTYPE_syscall"]
    NMI = _NUMBERS["CALLBACKTYPE_nmi"]
    SYSENTER = _NUMBERS["CALLBACKTYPE_sysenter"]
    SYSCALL32 = _NUMBERS["CALLBACKTYPE_syscall32"]


class Shutdown(IntEnum):
    """SHUTDOWN_* (xen/include/public/sched.h): why a domain ends."""

    POWEROFF = _NUMBERS["SHUTDOWN_poweroff"]
    REBOOT = _NUMBERS["SHUTDOWN_reboot"]
    SUSPEND = _NUMBERS["SHUTDOWN_suspend"]
    CRASH = _NUMBERS["SHUTDOWN_crash"]
    WATCHDOG = _NUMBERS["SHUTDOWN_watchdog"]
    SOFT_RESET = _NUMBERS["SHUTDOWN_soft_reset"]


def is_guests(va: int) -> bool:
    """Whether `va` is canonical and not in Xen's L4 slots (__addr_ok())."""
    return va < 1 << 47 or va >= _NUMBERS["HYPERVISOR_VIRT_END"]


class MmuextOp(Structure):
    cmd = U32()
    # Unions: a frame or an address; a number, the address of a bitmap of vCPUs, or a frame.
    arg1 = ULong()
    arg2 = ULong()


class MulticallEntry(Structure):
    op = ULong()
    result = ULong()
    args = Array(ULong(), 6)
