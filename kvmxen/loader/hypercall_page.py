"""The hypercall page of a 64-bit PV guest: entry n, 32 bytes long, makes hypercall n.

Source: xen/include/public/arch-x86/xen-x86_64.h for an entry's effect on the registers,
pv_ring3_init_hypercall_page in xen/arch/x86/pv/hypercall.c for the instructions.
"""

from __future__ import annotations

from kvmxen.kvm.layout import PAGE_SIZE

_ENTRY_SIZE = 32
_IRET = 23  # does not return; finds the guest's RAX on the stack
_PUSH_RCX_R11 = b"\x51\x41\x53"
_PUSH_RAX = b"\x50"
_POP_R11_RCX_RET = b"\x41\x5b\x59\xc3"


def _entry(number: int) -> bytes:
    call = b"\xb8" + number.to_bytes(4, "little") + b"\x0f\x05"  # mov eax, number; syscall
    if number == _IRET:
        code = _PUSH_RCX_R11 + _PUSH_RAX + call
    else:
        code = _PUSH_RCX_R11 + call + _POP_R11_RCX_RET
    return code.ljust(_ENTRY_SIZE, b"\xcc")


HYPERCALL_PAGE = b"".join(map(_entry, range(PAGE_SIZE // _ENTRY_SIZE)))
