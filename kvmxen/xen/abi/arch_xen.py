"""The structures of xen/include/public/arch-x86/xen.h."""

from __future__ import annotations

from kvmxen.xen.abi.structure import U8, U16, U32, U64, Array, Bytes, Nested, Structure, ULong


class TrapInfo(Structure):
    vector = U8()
    flags = U8()
    cs = U16()
    address = ULong()


class CpuUserRegs(Structure, widths=(64,)):
    r15 = U64()
    r14 = U64()
    r13 = U64()
    r12 = U64()
    rbp = U64()
    rbx = U64()
    r11 = U64()
    r10 = U64()
    r9 = U64()
    r8 = U64()
    rax = U64()
    rcx = U64()
    rdx = U64()
    rsi = U64()
    rdi = U64()
    error_code = U32()
    entry_vector = U32()
    rip = U64()
    cs = U16()
    pad0 = U16()
    saved_upcall_mask = U8()
    pad1 = Bytes(3)
    rflags = U64()
    rsp = U64()
    ss = U16()
    pad2 = Bytes(6)
    es = U16()
    pad3 = Bytes(6)
    ds = U16()
    pad4 = Bytes(6)
    fs = U16()
    pad5 = Bytes(6)
    gs = U16()
    pad6 = Bytes(6)


class VcpuGuestContext(Structure, widths=(64,)):
    fpu_ctxt = Bytes(512)
    flags = ULong()
    user_regs = Nested(CpuUserRegs)
    trap_ctxt = Array(Nested(TrapInfo), 256)
    ldt_base = ULong()
    ldt_ents = ULong()
    gdt_frames = Array(ULong(), 16)
    gdt_ents = ULong()
    kernel_ss = ULong()
    kernel_sp = ULong()
    ctrlreg = Array(ULong(), 8)
    debugreg = Array(ULong(), 8)
    event_callback_eip = ULong()
    failsafe_callback_eip = ULong()
    syscall_callback_eip = ULong()
    vm_assist = ULong()
    fs_base = U64()
    gs_base_kernel = U64()
    gs_base_user = U64()
