"""The guest's I/O ports: what IOPL and I/O bitmap let it touch, and what it finds there.

Source: iopl_ok(), guest_io_okay() and guest_io_read() of xen/arch/x86/pv/emul-priv-op.c, for a
domain without ports of its own: reads give ones, writes vanish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmxen.errors import GuestFault

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu

_PIT = range(0x40, 0x44)


def iopl_suffices(cpu: Cpu) -> bool:
    """Whether the guest may do any port I/O, cli and sti, by its IOPL.

    Its kernel is in ring 1, unless it asked for VMASST_TYPE_architectural_iopl.
    """
    vcpu = cpu.vcpu
    ring = (0 if vcpu.architectural_iopl else 1) if vcpu.kernel_mode else 3
    return ring <= vcpu.iopl


def may_access(cpu: Cpu, port: int, size: int) -> bool:
    """Whether the guest may access `size` bytes at `port`: by its IOPL, or its I/O bitmap."""
    if iopl_suffices(cpu):
        return True
    if port + size > cpu.io_ports:
        return False
    try:
        # As a CPU does, always two bytes.
        bits = cpu.read_u16(cpu.io_bitmap + (port >> 3))
    except GuestFault:
        return False
    return not bits >> (port & 7) & ((1 << size) - 1)


def value(port: int) -> int:
    """What a read of `port` gives, in its low bytes: ones, but for a PIT that has stopped."""
    return 0 if port in _PIT else 0xFFFFFFFF
