"""The crash report: the reason, the place, the registers, and the console's last output."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvmxen.domain.report import crash_report
from tests.unit.forged import FREE_PFN, Domain, va

SYMBOL = 0xFFFFFFFF81000010


def symbol(address: int) -> str | None:
    return "panic+0x10/0x20" if address == SYMBOL else None


@pytest.fixture
def domain() -> Iterator[Domain]:
    domain = Domain()
    vcpu = domain.cpu.vcpu
    vcpu.rip, vcpu.rsp = SYMBOL, va(FREE_PFN, 0x100)
    vcpu.rax, vcpu.r15, vcpu.rflags = 0x1234, 0xABCD, 0x246
    domain.memory.write_u64(domain.gpa(FREE_PFN) + 0x110, SYMBOL)
    domain.machine.crash("triple fault", domain.cpu)
    yield domain
    domain.machine.close()


def test_golden(domain: Domain) -> None:
    cr3 = domain.cr3
    zero = "0" * 16
    assert crash_report(domain.machine, symbol, b"one\r\ntwo\x1b[0m\r\n").splitlines() == [
        "kvmxen: the guest crashed: triple fault",
        "  vcpu 0 in kernel mode at e033:ffffffff81000010 panic+0x10/0x20",
        f"  rax 0000000000001234  rbx {zero}  rcx {zero}  rdx {zero}",
        f"  rsi {zero}  rdi {zero}  rbp {zero}  rsp {va(FREE_PFN, 0x100):016x}",
        f"  r8  {zero}  r9  {zero}  r10 {zero}  r11 {zero}",
        f"  r12 {zero}  r13 {zero}  r14 {zero}  r15 000000000000abcd",
        f"  rflags 0000000000000246  ss e02b  cr2 {zero}  cr3 {cr3:016x}",
        "  on the stack:",
        "    ffffffff81000010 panic+0x10/0x20",
        "  the console's last lines:",
        "    one",
        "    two?[0m",
    ]


def test_only_the_last_lines(domain: Domain) -> None:
    tail = b"\n".join(b"line %d" % i for i in range(100))
    lines = crash_report(domain.machine, symbol, tail).splitlines()
    assert lines[-1] == "    line 99"
    assert "    line 60" in lines
    assert "    line 59" not in lines


def test_a_stack_that_is_not_there(domain: Domain) -> None:
    domain.cpu.vcpu.rsp = 0xFFFFFFFFFFFFFFFF - 7
    assert "stack" not in crash_report(domain.machine, lambda _: None, b"")


def test_a_crash_without_a_vcpu() -> None:
    domain = Domain()
    domain.machine.crash_reason = "none came up"
    report = crash_report(domain.machine, symbol, b"")
    assert report == "kvmxen: the guest crashed: none came up"
    domain.machine.close()
