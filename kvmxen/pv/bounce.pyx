"""The two ways in and out of a PV guest's kernel: the bounce frame and the iret hypercall.

Frames are Xen's: xen/arch/x86/x86_64/entry.S (create_bounce_frame) and struct iret_context of
xen/include/public/arch-x86/xen-x86_64.h.
"""

from libc.stdint cimport uint8_t, uint64_t

from kvmxen.xen.abi.x86 cimport (
    EFL_AC, EFL_ALL, EFL_FIXED, EFL_IF, EFL_IOPL, EFL_IOPL_SHIFT, EFL_NT, EFL_RF, EFL_TF,
    EFL_VIF_VIP, EFL_VM,
)
from kvmxen.xen.abi.xen cimport (
    FLAT_RING3_CS64, FLAT_RING3_SS, VCPU_INFO_SIZE, VCPU_INFO_UPCALL_MASK,
    VCPU_INFO_UPCALL_PENDING, VGCF_in_syscall,
)
from kvmxen.pv.paging cimport PageTables
from kvmxen.pv.shim.shared cimport SHIM_EVENT_LOOP
from kvmxen.pv.gate cimport PvVcpu

from kvmxen.errors import GuestCrash, GuestFault


cdef uint8_t *_stack(PvVcpu vcpu, PageTables tables, uint64_t va) except NULL:
    try:
        return tables.memory.at(tables.gpa_of(vcpu.state.kernel_cr3, va, True), 8)
    except GuestFault:
        raise GuestCrash(f"the guest kernel's stack at {va:#x} cannot be written") from None


def bounce(PvVcpu vcpu, PageTables tables, uint64_t info_gpa, uint64_t kernel_sp,
           uint64_t handler, bint mask_events, error_code):
    """Make the guest's kernel enter `handler` as if trapped at the vCPU's registers.

    A trap from user mode uses the stack `kernel_sp`; `error_code` is pushed unless None; with
    `mask_events`, events become masked in the vcpu_info at `info_gpa`. Raises GuestCrash if there
    is no handler or no stack.
    """
    cdef uint8_t *info = tables.memory.at(info_gpa, VCPU_INFO_SIZE)
    cdef uint64_t frame[8]
    cdef int n = 0, i
    cdef uint64_t rsp, cs = vcpu.cs, flags
    cdef uint8_t masked = info[VCPU_INFO_UPCALL_MASK]
    if not handler:
        raise GuestCrash("the guest has no handler for a trap")
    if vcpu.state.kernel_mode:
        rsp = vcpu.rsp
        cs &= ~<uint64_t>3
    else:
        if not vcpu.state.kernel_cr3:
            raise GuestCrash("the guest has no page tables")
        vcpu.toggle_mode()
        rsp = kernel_sp
    rsp &= ~<uint64_t>15
    flags = vcpu.rflags & ~(EFL_IF | EFL_IOPL)
    if not masked:
        flags |= EFL_IF
    if vcpu.state.architectural_iopl:
        flags |= <uint64_t>(vcpu.state.iopl & 3) << EFL_IOPL_SHIFT
    frame[0] = vcpu.ss
    frame[1] = vcpu.rsp
    frame[2] = flags
    frame[3] = cs | <uint64_t>masked << 32
    frame[4] = vcpu.rip
    n = 5
    if error_code is not None:
        frame[n] = error_code
        n += 1
    frame[n] = vcpu.r11
    frame[n + 1] = vcpu.rcx
    n += 2
    for i in range(n):
        rsp -= 8
        (<uint64_t *>_stack(vcpu, tables, rsp))[0] = frame[i]
    if mask_events:
        info[VCPU_INFO_UPCALL_MASK] = 1
    vcpu.rip = handler
    vcpu.rsp = rsp
    vcpu.rflags = vcpu.rflags & ~(EFL_TF | EFL_NT | EFL_RF | EFL_VM | EFL_AC | EFL_IOPL) | EFL_IF
    vcpu.cs = FLAT_RING3_CS64
    vcpu.ss = FLAT_RING3_SS


def iret(PvVcpu vcpu, PageTables tables, uint64_t info_gpa):
    """HYPERVISOR_iret: load the registers from the iret_context on the kernel's stack.

    Returns whether the vCPU is in an event loop (see eventloop.py), once for each loop. Raises
    GuestCrash if the frame cannot be read or there is no user address space.
    """
    cdef const uint64_t[::1] frame
    try:
        frame = memoryview(tables.read(vcpu.state.kernel_cr3, vcpu.rsp, 72)).cast("Q")
    except GuestFault:
        raise GuestCrash("iret: the frame cannot be read") from None
    cdef uint64_t flags = frame[3]
    cdef uint64_t rflags = frame[6]
    if frame[5] & 3 == 3:
        if not vcpu.state.user_cr3:
            raise GuestCrash("iret to user mode without a user address space")
        vcpu.toggle_mode()
    if vcpu.state.architectural_iopl:
        vcpu.state.iopl = rflags >> EFL_IOPL_SHIFT & 3
    vcpu.rax = frame[0]
    if flags & VGCF_in_syscall:
        # A sysret takes rip and rflags from rcx and r11.
        vcpu.r11 = rflags
        vcpu.rcx = frame[4]
    else:
        vcpu.r11 = frame[1]
        vcpu.rcx = frame[2]
    vcpu.rip = frame[4]
    vcpu.cs = <int>(frame[5] & 0xffff) | 3
    vcpu.rflags = rflags & ~(EFL_IOPL | EFL_VM | EFL_VIF_VIP) & EFL_ALL | EFL_IF | EFL_FIXED
    vcpu.rsp = frame[7]
    vcpu.ss = <int>(frame[8] & 0xffff) | 3
    cdef uint8_t *info = tables.memory.at(info_gpa, VCPU_INFO_SIZE)
    info[VCPU_INFO_UPCALL_MASK] = 0 if rflags & EFL_IF else 1
    cdef bint upcall_due = rflags & EFL_IF and info[VCPU_INFO_UPCALL_PENDING]
    cdef bint own = vcpu.state.sent_to_itself
    vcpu.state.sent_to_itself = 0
    return _is_event_loop(vcpu, own and upcall_due)


cdef bint _is_event_loop(PvVcpu vcpu, bint own_upcall_due) noexcept:
    cdef bint again = vcpu.rip == vcpu.state.upcall_rip and vcpu.rsp == vcpu.state.upcall_rsp
    if not own_upcall_due:
        vcpu.state.upcalls = 0
        return False
    vcpu.state.upcall_rip = vcpu.rip
    vcpu.state.upcall_rsp = vcpu.rsp
    vcpu.state.upcalls = vcpu.state.upcalls + 1 if again else 1
    return vcpu.state.upcalls == SHIM_EVENT_LOOP
