"""A PV kernel's privileged instructions: which are emulated, their lengths, their effects."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.pv import emulate
from kvmxen.pv.features import Features, Filter
from kvmxen.xen.abi import x86
from tests.unit.forged import FREE_PFN, TOP, TOP_PFN, Domain, VcpuFd, va
from tests.unit.xen.cpuids import recorded

MASK64 = (1 << 64) - 1
RIP = va(FREE_PFN, 0x100)


@pytest.fixture
def domain() -> Iterator[Domain]:
    domain = Domain()
    domain.cpu.vcpu.rip, domain.cpu.vcpu.iopl = RIP, 1
    yield domain
    domain.machine.close()


def xcr0(domain: Domain) -> int:
    """The XCR0 that KVM was told."""
    fd: object = domain.cpu.fd
    assert isinstance(fd, VcpuFd)
    return fd.xcr0


def run(domain: Domain, code: str) -> int:
    """The change of RIP, 0 for an instruction that is not emulated."""
    done = emulate.privileged(domain.cpu, bytes.fromhex(code).ljust(15, b"\x90"))
    moved = domain.cpu.vcpu.rip - RIP
    assert done == (moved > 0)
    return moved


@pytest.mark.parametrize(
    ("code", "length"),
    [
        ("fa", 1),  # cli
        ("fb", 1),  # sti
        ("f4", 0),  # hlt, which a kernel asks for by SCHEDOP_block
        ("ec", 1),  # in %dx, %al
        ("66ed", 2),  # in %dx, %ax
        ("ed", 1),  # in %dx, %eax
        ("e461", 2),  # in $0x61, %al
        ("e680", 2),  # out %al, $0x80
        ("66e780", 3),  # out %ax, $0x80
        ("ef", 1),  # out %eax, %dx
        ("0f06", 2),  # clts
        ("0f08", 2),  # invd
        ("0f09", 2),  # wbinvd
        ("0fa2", 2),  # cpuid
        ("0f20c0", 3),  # mov %cr0, %rax
        ("0f20e3", 3),  # mov %cr4, %rbx
        ("410f20df", 4),  # mov %cr3, %r15
        ("0f21f8", 3),  # mov %dr7, %rax
        ("f00f20c0", 0),  # lock: mov %cr8
        ("440f20c0", 0),  # mov %cr8, %rax
        ("0f21e0", 0),  # mov %dr4, %rax
        ("0f01d0", 0),  # xgetbv, which ring 3 may itself
        ("0f0118", 0),  # lidt
        ("0f00d8", 0),  # ltr
        ("0f35", 0),  # sysexit
        ("90", 0),  # nop
        ("6690", 0),
        ("666666666666666666666666666666", 0),
        ("0f", 0),
    ],
)
def test_instructions(domain: Domain, code: str, length: int) -> None:
    assert run(domain, code) == length


def test_nothing_is_no_instruction(domain: Domain) -> None:
    assert not emulate.privileged(domain.cpu, b"")


@pytest.mark.parametrize(
    ("code", "port", "before", "after"),
    [
        ("ec", 0x3F8, 0x1122334455667788, 0x11223344556677FF),
        ("66ed", 0x3F8, 0x1122334455667788, 0x112233445566FFFF),
        ("ed", 0x3F8, 0x1122334455667788, 0xFFFFFFFF),
        ("ec", 0x42, 0x1122334455667788, 0x1122334455667700),
        ("e440", 0x3F8, 0x1122334455667788, 0x1122334455667700),
    ],
)
def test_ports_are_empty_and_the_pit_is_zero(
    domain: Domain, code: str, port: int, before: int, after: int
) -> None:
    domain.cpu.vcpu.rax, domain.cpu.vcpu.rdx = before, port
    assert run(domain, code)
    assert domain.cpu.vcpu.rax == after


def test_msrs_are_read_in_two_halves(domain: Domain) -> None:
    domain.cpu.fd.set_msr(x86.MSR_FS_BASE, 0x12345678_9ABC)
    vcpu = domain.cpu.vcpu
    vcpu.rcx, vcpu.rax, vcpu.rdx = x86.MSR_FS_BASE | 0xBAD << 32, MASK64, MASK64
    assert run(domain, "0f32") == 2
    assert (vcpu.rdx, vcpu.rax) == (0x1234, 0x5678_9ABC)


def test_an_msr_that_is_not_there_is_left_alone(domain: Domain) -> None:
    domain.cpu.set_trap(13, 0, 0xFFFFFFFF81000000)
    vcpu = domain.cpu.vcpu
    vcpu.rcx = 0xC0000081
    assert run(domain, "0f32") == 0
    assert run(domain, "0f30") == 0


def test_bases_are_written_where_canonical(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.rcx, vcpu.rdx, vcpu.rax = x86.MSR_GS_BASE, 0xFFFF8880, 0x1000
    assert run(domain, "0f30") == 2
    assert domain.cpu.fd.get_msr(x86.MSR_GS_BASE) == 0xFFFF888000001000
    vcpu.rip = RIP
    vcpu.rdx = 0x8000
    assert run(domain, "0f30") == 0
    assert domain.cpu.fd.get_msr(x86.MSR_GS_BASE) == 0xFFFF888000001000


@pytest.mark.parametrize(
    ("value", "index", "done"),
    [(7, 0, True), (3, 0, True), (1, 0, True), (5, 0, False), (6, 0, False), (0, 0, False),
     (0xF, 0, False), (7, 1, False), (1 << 62 | 7, 0, False)],
)  # fmt: skip
def test_xsetbv(domain: Domain, value: int, index: int, done: bool) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.rax, vcpu.rdx, vcpu.rcx = value & 0xFFFFFFFF, value >> 32, index
    assert run(domain, "0f01d1") == (3 if done else 0)
    assert xcr0(domain) == (value if done else 1)


@pytest.mark.parametrize(
    ("value", "done"),
    [(0xE7, True), (7, True), (3, True), (1, True), (0xE3, False), (0xA7, False), (0x67, False),
     (0xE5, False), (0xE1, False), (0x2E7, False), (0x60000 | 0xE7, False)],
)  # fmt: skip
@pytest.mark.parametrize("sets", [True, False])
def test_xsetbv_with_avx512(sets: bool, value: int, done: bool) -> None:
    leaves = tuple(recorded("intel-software-kvm").ring3)
    domain = Domain(features=Features(Filter.PART, sets, leaves))
    vcpu = domain.cpu.vcpu
    vcpu.rip, vcpu.rax, vcpu.rdx, vcpu.rcx = RIP, value, 0, 0
    assert run(domain, "0f01d1") == (3 if done else 0)
    # If ring 3 has an XCR0 of its own, KVM need not know it.
    assert xcr0(domain) == (value if done and sets else 1)
    domain.machine.close()


def test_control_registers(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    assert run(domain, "0f20d8") == 3
    assert vcpu.rax == domain.cr3
    vcpu.rip, vcpu.rax = RIP, vcpu.cr0 | 8
    assert run(domain, "0f22c0") == 3
    assert vcpu.cr0 & 8
    vcpu.rip = RIP
    assert run(domain, "0f06") == 2
    assert not vcpu.cr0 & 8
    # Paging cannot be turned off, and a foreign table cannot be loaded.
    vcpu.rip, vcpu.rax = RIP, 0
    assert run(domain, "0f22c0") == 0
    assert run(domain, "0f22d8") == 0
    assert vcpu.kernel_cr3 == domain.cr3


def test_cpuid_behind_xens_prefix(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    code = bytes.fromhex("0f0b78656e0fa2")
    vcpu.rax = 0xBAD << 32 | 0x40000000
    assert emulate.forced_cpuid(domain.cpu, code)
    assert vcpu.rip == RIP + 7
    assert (vcpu.rbx, vcpu.rcx, vcpu.rdx) == (0x566E6558, 0x65584D4D, 0x4D4D566E)
    for other in (b"", code[:6], b"\x0f\x0b", bytes.fromhex("0f0b78656e0f31")):
        assert not emulate.forced_cpuid(domain.cpu, other)


def test_no_question_makes_the_process_grow(domain: Domain) -> None:
    code = bytes.fromhex("0f0b78656e0fa2")
    vcpu = domain.cpu.vcpu

    def ask(leaves: range) -> None:
        for leaf in leaves:
            # Leaves that do not exist, and missing sub-leaves of one that has some.
            for vcpu.rax, vcpu.rcx in ((leaf, 0), (7, leaf)):
                assert emulate.forced_cpuid(domain.cpu, code)

    ask(range(0x50000000, 0x50000200))
    tracemalloc.start()
    ask(range(0x50000200, 0x50002000))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Not even four bytes each.
    assert grown < 4 * 2 * 0x1E00


def test_rip_wraps_at_the_end_of_memory(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.rip = MASK64 - 6
    assert emulate.forced_cpuid(domain.cpu, bytes.fromhex("0f0b78656e0fa2"))
    assert vcpu.rip == 0
    vcpu.rip = MASK64
    assert emulate.privileged(domain.cpu, b"\xfa")
    assert vcpu.rip == 0


def test_code_is_read_up_to_the_end_of_its_page(domain: Domain) -> None:
    domain.memory.write(domain.gpa(TOP_PFN) + 4096 - 3, b"\x0f\xa2\x90")
    domain.cpu.vcpu.rip = TOP + 4096 - 3
    assert emulate.code(domain.cpu) == b"\x0f\xa2\x90"
    domain.cpu.vcpu.rip = 0x1000
    assert emulate.code(domain.cpu) == b""


@pytest.mark.parametrize(
    ("code", "vector"), [("cd80", 0x80), ("cd", None), ("cc", None), ("", None), ("90cd80", None)]
)
def test_software_interrupts(code: str, vector: int | None) -> None:
    assert emulate.software_interrupt(bytes.fromhex(code)) == vector


@settings(max_examples=300, deadline=None)
@given(
    code=st.binary(max_size=15) | st.builds(lambda tail: b"\x0f" + tail, st.binary(max_size=14)),
    registers=st.lists(st.integers(0, MASK64), min_size=4, max_size=4),
)
def test_any_bytes_are_done_or_left_alone(code: bytes, registers: list[int]) -> None:
    domain = Domain()
    vcpu = domain.cpu.vcpu
    vcpu.rip = RIP
    vcpu.rax, vcpu.rcx, vcpu.rdx, vcpu.rbx = registers
    if emulate.privileged(domain.cpu, code):
        assert RIP < vcpu.rip <= RIP + 15 + 3
    else:
        assert vcpu.rip == RIP
        assert [vcpu.rax, vcpu.rcx, vcpu.rdx, vcpu.rbx] == registers
    domain.machine.close()
