"""The lines of --debug."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from kvmxen.pv.shim.abi import constants
from kvmxen.pv.trace import Trace, hypercall_name, trap_name
from kvmxen.xen.abi.xen import Hypercall
from tests.unit.forged import Domain

C = constants()


@pytest.fixture
def domain() -> Iterator[Domain]:
    domain = Domain()
    yield domain
    domain.machine.close()


@pytest.mark.parametrize(
    ("trap", "name"),
    [
        (14, "#PF"), (2, "NMI"), (9, "trap 9"), (31, "trap 31"),
        (C["STUB_EVENT"], "event"), (C["STUB_TIMER"], "timer"),
        (C["TRAP_SYSCALL"], "syscall"), (C["TRAP_BAD_IRET"], "bad_iret"), (1000, "trap 1000"),
    ],
)  # fmt: skip
def test_trap_names(trap: int, name: str) -> None:
    assert trap_name(trap) == name


@pytest.mark.parametrize(
    ("number", "name"), [(1, "mmu_update"), (23, "iret"), (63, "hypercall_63")]
)
def test_hypercall_names(number: int, name: str) -> None:
    assert hypercall_name(number) == name


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (0, "vcpu0: mmu_update(0x1, 0x2, 0x3, 0x4) = 0x0\n"),
        (0x40011, "vcpu0: mmu_update(0x1, 0x2, 0x3, 0x4) = 0x40011\n"),
        (-22, "vcpu0: mmu_update(0x1, 0x2, 0x3, 0x4) = -EINVAL\n"),
        (-4000, "vcpu0: mmu_update(0x1, 0x2, 0x3, 0x4) = -4000\n"),
        (None, "vcpu0: mmu_update(0x1, 0x2, 0x3, 0x4)\n"),
    ],
)
def test_hypercalls(domain: Domain, result: int | None, line: str) -> None:
    out = io.StringIO()
    Trace(out).hypercall(domain.cpu, Hypercall.mmu_update, [1, 2, 3, 4, 5, 6], result)
    assert out.getvalue() == line


def test_traps(domain: Domain) -> None:
    out = io.StringIO()
    trace = Trace(out)
    domain.cpu.vcpu.rip = 0x401000
    # The kernel's are hypercalls, which have lines of their own.
    trace.trap(domain.cpu, C["TRAP_SYSCALL"])
    domain.cpu.vcpu.kernel_mode = False
    trace.trap(domain.cpu, C["TRAP_SYSCALL"])
    trace.trap(domain.cpu, 14)
    assert out.getvalue().splitlines() == [
        "vcpu0: syscall in user at 0x401000",
        "vcpu0: #PF in user at 0x401000 error 0x0 cr2 0x0",
    ]


def test_grants_in_use(domain: Domain) -> None:
    out = io.StringIO()
    grants = domain.machine.grants
    grants.seed(1, domain.layout.mfn(7))
    for write in (True, False, False):
        grants.map_frame(1, write)
    Trace(out).grants(grants)
    assert out.getvalue() == "grant 1: pinned 2 times for reading, 1 for writing\n"
