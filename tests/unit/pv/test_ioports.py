"""Who may use port I/O, cli and sti, and the result of each."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kvmxen.pv import emulate, ioports
from kvmxen.pv.hypercalls.physdev_op import PhysdevOp
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.xen import Hypercall
from tests.unit.forged import FREE_PFN, TOP, USER_L4_PFN, Domain, va

RIP = va(FREE_PFN, 0x100)
BITMAP_PFN = FREE_PFN + 2
BITMAP = va(BITMAP_PFN)
PORTS = 0x10000


@pytest.fixture
def domain() -> Iterator[Domain]:
    domain = Domain()
    domain.cpu.vcpu.rip = RIP
    domain.cpu.vcpu.user_cr3 = domain.gpa(USER_L4_PFN)
    yield domain
    domain.machine.close()


def run(domain: Domain, code: str) -> bool:
    return emulate.privileged(domain.cpu, bytes.fromhex(code))


def allow(domain: Domain, *ports: int, bitmap: int = BITMAP, count: int = PORTS) -> None:
    """Give vCPU 0 an I/O bitmap of `count` ports that allows `ports`."""
    bits = bytearray(b"\xff" * (PORTS // 8 + 1))
    for port in ports:
        bits[port // 8] &= ~(1 << port % 8)
    domain.memory.write(domain.gpa(BITMAP_PFN), bits)
    argument = domain.put(struct.pack("<QI", bitmap, count))
    assert domain.hypercall(Hypercall.physdev_op, PhysdevOp.SET_IOBITMAP, argument) == 0


@pytest.mark.parametrize("iopl", range(4))
@pytest.mark.parametrize(
    ("user", "architectural", "least"),
    [(False, False, 1), (False, True, 0), (True, False, 3), (True, True, 3)],
)
def test_iopl(domain: Domain, iopl: int, user: bool, architectural: bool, least: int) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.iopl, vcpu.architectural_iopl, vcpu.kernel_mode = iopl, architectural, not user
    for code in ("fa", "fb", "ec", "ed", "66ed", "e470", "ee", "66ef", "e670"):
        vcpu.rip = RIP
        assert run(domain, code) == (iopl >= least)
        assert (vcpu.rip > RIP) == (iopl >= least)


@pytest.mark.parametrize(
    ("allowed", "port", "size", "may"),
    [
        ((0x70,), 0x70, 1, True),
        ((0x70,), 0x71, 1, False),
        ((0x70,), 0x70, 2, False),
        ((0x70, 0x71), 0x70, 2, True),
        ((7, 8, 9, 10), 7, 4, True),  # across two bytes of the bitmap
        ((7, 8, 9), 7, 4, False),
        ((0xFFFF,), 0xFFFF, 1, True),
        ((0xFFFF,), 0xFFFF, 2, False),
    ],
)
@pytest.mark.parametrize("user", [False, True])
def test_bitmap(
    domain: Domain, allowed: tuple[int, ...], port: int, size: int, may: bool, user: bool
) -> None:
    allow(domain, *allowed)
    domain.cpu.vcpu.kernel_mode = not user
    assert ioports.may_access(domain.cpu, port, size) == may
    assert not ioports.iopl_suffices(domain.cpu)


def test_ports_beyond_the_bitmap_are_not_allowed(domain: Domain) -> None:
    allow(domain, *range(64), count=32)
    assert ioports.may_access(domain.cpu, 31, 1)
    assert not ioports.may_access(domain.cpu, 31, 2)
    assert not ioports.may_access(domain.cpu, 32, 1)


@pytest.mark.parametrize("bitmap", [0x1000, TOP + 4095])
def test_a_bitmap_that_cannot_be_read_allows_nothing(domain: Domain, bitmap: int) -> None:
    allow(domain, bitmap=bitmap)
    assert not ioports.may_access(domain.cpu, 0, 1)


def test_what_a_bitmap_allows_is_done(domain: Domain) -> None:
    allow(domain, 0x70)
    vcpu = domain.cpu.vcpu
    vcpu.kernel_mode, vcpu.rax, vcpu.rdx = False, 0x1234, 0x70
    assert run(domain, "ec")
    assert (vcpu.rax, vcpu.rip) == (0x12FF, RIP + 1)
    assert not run(domain, "66ed")
    assert not run(domain, "fa")
    assert not run(domain, "e4")  # its port is not there
    assert (vcpu.rax, vcpu.rip) == (0x12FF, RIP + 1)


@pytest.mark.parametrize("code", ["f4", "0f06", "0f09", "0fa2", "0f20c0", "0f32", "0f30", "0f01d1"])
def test_user_code_has_nothing_else_done(domain: Domain, code: str) -> None:
    domain.cpu.vcpu.kernel_mode, domain.cpu.vcpu.iopl = False, 3
    domain.cpu.vcpu.rcx = x86.MSR_EFER
    assert not run(domain, code)
    assert domain.cpu.vcpu.rip == RIP
