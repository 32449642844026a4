"""The guest's I/O ports: which ones IOPL and I/O bitmap allow, and what reads return.

Source: iopl_ok(), guest_io_okay() and guest_io_read() of xen/arch/x86/pv/emul-priv-op.c, for a
domain without ports of its own: reads return ones, writes are ignored.
"""

from __future__ import annotations

from kvmxen.errors import GuestFault
from kvmxen.pv.cpu import Cpu

_PIT = range(0x40, 0x44)


def iopl_suffices(cpu: Cpu) -> bool:
    """Whether the guest's IOPL allows all port I/O, cli and sti.

    Its kernel counts as ring 1, or as ring 0 if it asked for VMASST_TYPE_architectural_iopl.
    """
    vcpu = cpu.vcpu
    ring = (0 if vcpu.architectural_iopl else 1) if vcpu.kernel_mode else 3
    return ring <= vcpu.iopl


def may_access(cpu: Cpu, port: int, size: int) -> bool:
    """Whether the guest's IOPL or its I/O bitmap allows access to `size` bytes at `port`."""
    if iopl_suffices(cpu):
        return True
    if port + size > cpu.io_ports:
        return False
    try:
        # Always read two bytes, as a CPU does.
        bits = cpu.read_u16(cpu.io_bitmap + (port >> 3))
    except GuestFault:
        return False
    return not bits >> (port & 7) & ((1 << size) - 1)


def value(port: int) -> int:
    """The value, in its low bytes, that a read of `port` returns: ones, or a stopped PIT's."""
    return 0 if port in _PIT else 0xFFFFFFFF
