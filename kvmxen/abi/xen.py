"""The heart of the public ABI: shared_info, vcpu_info, hypercall numbers, domain ids.

Sources: xen/include/public/xen.h and arch-x86/xen.h, as a 64-bit guest sees them.
"""

from __future__ import annotations

from enum import IntEnum

DOMID_SELF = 0x7FF0
# The only domain that there is, but for dom0, which is this process.
DOMID_GUEST = 1
LEGACY_MAX_VCPUS = 32
NR_CHANNELS = 4096


# Offsets in bytes, for the paths that touch single fields of shared memory.
VCPU_INFO_SIZE = 64
UPCALL_PENDING = 0
UPCALL_MASK = 1
PENDING_SEL = 8
CR2 = 16
TIME = 32
TIME_SIZE = 32
EVTCHN_PENDING = 2048
EVTCHN_MASK = 2560
WALLCLOCK = 3072


class Hypercall(IntEnum):
    """__HYPERVISOR_*: the number in RAX."""

    set_trap_table = 0
    mmu_update = 1
    set_gdt = 2
    stack_switch = 3
    set_callbacks = 4
    fpu_taskswitch = 5
    sched_op_compat = 6
    platform_op = 7
    set_debugreg = 8
    get_debugreg = 9
    update_descriptor = 10
    memory_op = 12
    multicall = 13
    update_va_mapping = 14
    set_timer_op = 15
    event_channel_op_compat = 16
    xen_version = 17
    console_io = 18
    physdev_op_compat = 19
    grant_table_op = 20
    vm_assist = 21
    update_va_mapping_otherdomain = 22
    iret = 23
    vcpu_op = 24
    set_segment_base = 25
    mmuext_op = 26
    xsm_op = 27
    nmi_op = 28
    sched_op = 29
    callback_op = 30
    xenoprof_op = 31
    event_channel_op = 32
    physdev_op = 33
    hvm_op = 34
    sysctl = 35
    domctl = 36
    kexec_op = 37
    tmem_op = 38
    argo_op = 39
    xenpmu_op = 40
    dm_op = 41
    hypfs_op = 42
    mca = 48


class Virq(IntEnum):
    """VIRQ_*: interrupts that Xen itself raises."""

    TIMER = 0
    DEBUG = 1
    CONSOLE = 2
    DOM_EXC = 3
    TBUF = 4
    DEBUGGER = 6
    XENOPROF = 7
    CON_RING = 8
    PCPU_STATE = 9
    MEM_EVENT = 10
    ARGO = 11
    ENOMEM = 12
    XENPMU = 13


# Those that each vCPU has of its own (xen/common/event_channel.c, get_virq_type).
PER_VCPU_VIRQS = frozenset({Virq.TIMER, Virq.DEBUG, Virq.XENOPROF, Virq.XENPMU})
NR_VIRQS = 24
