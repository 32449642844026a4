"""Trap table, callbacks and debug registers that a guest registers."""

from __future__ import annotations

import errno
import struct

import pytest

from kvmxen.kvm.structs import Debugregs
from kvmxen.pv.exceptions import TRAP_LOST_DEBUG, handle
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.xen import CallbackType, Hypercall
from tests.unit.forged import SCRATCH, Domain

EINVAL, EPERM = -errno.EINVAL, -errno.EPERM
CODE = 0xFFFFFFFF81000000


def trap_table(domain: Domain, *entries: tuple[int, int, int]) -> int | None:
    body = b"".join(
        struct.pack("<BBH4xQ", vector, flags, 0xE033, address) for vector, flags, address in entries
    )
    return domain.hypercall(Hypercall.set_trap_table, domain.put(body))


def test_the_trap_table_grows_and_is_cleared(domain: Domain) -> None:
    assert trap_table(domain, (3, 3, CODE), (14, 4, CODE + 1), (0, 0, 0)) == 0
    assert trap_table(domain, (6, 0, CODE + 2), (0, 0, 0)) == 0
    assert domain.cpu.trap_table == {3: (3, CODE), 14: (4, CODE + 1), 6: (0, CODE + 2)}
    assert domain.hypercall(Hypercall.set_trap_table, 0) == 0
    assert domain.cpu.trap_table == {}


def test_a_trap_table_ends(domain: Domain) -> None:
    assert trap_table(domain, (3, 0, 1 << 47), (0, 0, 0)) == EINVAL
    # 4 KiB of scratch hold 256 entries; the page after it ends the table.
    assert trap_table(domain, *[(3, 0, CODE)] * 256) == 0
    domain.memory.write(domain.gpa(17), struct.pack("<BBH4xQ", 3, 0, 0xE033, CODE) * 256)
    assert domain.hypercall(Hypercall.set_trap_table, SCRATCH) == EINVAL


def test_callbacks(domain: Domain) -> None:
    assert domain.hypercall(Hypercall.set_callbacks, CODE, CODE + 1, CODE + 2) == 0
    body = struct.pack("<HH4xQ", CallbackType.SYSCALL32, xen.CALLBACKF_mask_events, CODE + 3)
    assert domain.hypercall(Hypercall.callback_op, xen.CALLBACKOP_register, domain.put(body)) == 0
    assert domain.cpu.callbacks == {
        CallbackType.EVENT: (CODE, False),
        CallbackType.FAILSAFE: (CODE + 1, False),
        CallbackType.SYSCALL: (CODE + 2, False),
        CallbackType.SYSCALL32: (CODE + 3, True),
    }
    assert domain.hypercall(Hypercall.set_callbacks, 1 << 47, CODE, CODE) == EINVAL


def test_the_nmi_callback_is_entered_with_events_masked(domain: Domain) -> None:
    callback = domain.put(struct.pack("<Q", CODE))
    assert domain.hypercall(Hypercall.nmi_op, xen.XENNMI_register_callback, callback) == 0
    assert domain.cpu.trap_table == {x86.TRAP_NMI: (xen.TI_IF, CODE)}
    assert domain.hypercall(Hypercall.nmi_op, xen.XENNMI_unregister_callback, 0) == 0
    assert domain.cpu.trap_table == {}


def test_the_kernels_stack(domain: Domain) -> None:
    assert domain.hypercall(Hypercall.stack_switch, 0xE02B, CODE) == 0
    assert domain.cpu.kernel_sp == CODE


@pytest.mark.parametrize(
    ("register", "value", "answer", "read"),
    [
        (0, CODE, 0, CODE),
        (3, 0x7FFFFFFFFFFF, 0, 0x7FFFFFFFFFFF),
        # In the shim, a breakpoint would trap where no trap may occur.
        (1, 0xFFFF810000000000, EPERM, 0),
        (1, 1 << 47, EPERM, 0),
        (6, 0x4001, 0, 0xFFFF4FF1),
        (7, 0x00000003, 0, 0x403),
        # General detect, and an I/O breakpoint.
        (7, 0x2403, 0, 0x403),
        (7, 0x00020003, EPERM, 0x400),
        (4, 0, EINVAL, None),
        (8, 0, EINVAL, None),
        (0xFFFFFFFF, 0, EINVAL, None),
    ],
)
def test_debug_registers(
    domain: Domain, register: int, value: int, answer: int, read: int | None
) -> None:
    assert domain.hypercall(Hypercall.set_debugreg, register, value) == answer
    result = domain.hypercall(Hypercall.get_debugreg, register)
    assert result == (EINVAL if read is None else read)


DR6 = 0xFFFF0FF0
# The breakpoints' bits, and a step's.
B0, B1, BS = 1, 2, 0x4000


@pytest.mark.parametrize(
    ("guests", "cpus", "merged"),
    [(0, B0, B0), (BS, B0, BS | B0), (B0, B1, B1), (B0, BS, BS | B0), (B0, 0, B0)],
)
def test_a_debug_exception_adds_to_the_guests_dr6(
    domain: Domain, guests: int, cpus: int, merged: int
) -> None:
    assert trap_table(domain, (1, 0, CODE), (0, 0, 0)) == 0
    domain.cpu.vcpu.rsp = SCRATCH + 0x800
    assert domain.hypercall(Hypercall.set_debugreg, 6, guests) == 0
    domain.cpu.fd.set_debugregs(Debugregs(dr6=DR6 | cpus))
    handle(domain.cpu, 1)
    assert domain.cpu.vcpu.rip == CODE
    assert domain.hypercall(Hypercall.get_debugreg, 6) == DR6 | merged
    # The next exception can be told apart from the last.
    assert domain.cpu.fd.get_debugregs().dr6 & ~DR6 == 0


def test_one_that_the_shim_met_is_forgotten(domain: Domain) -> None:
    assert domain.hypercall(Hypercall.set_debugreg, 6, B1) == 0
    domain.cpu.fd.set_debugregs(Debugregs(dr6=DR6 | B0 | BS))
    handle(domain.cpu, TRAP_LOST_DEBUG)
    assert domain.hypercall(Hypercall.get_debugreg, 6) == DR6 | B1
    assert domain.cpu.fd.get_debugregs().dr6 & ~DR6 == 0
