"""Reads of the machine-to-physical table that the host performs for the guest's kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.loader.frames import fill_m2p
from kvmxen.pv import m2p
from kvmxen.xen.abi import xen
from tests.unit.forged import FREE_PFN, Domain, va

TABLE = xen.HYPERVISOR_VIRT_START
RIP = va(FREE_PFN, 0x100)
PFN = 0x123
TF = 0x100
MASK64 = (1 << 64) - 1


@pytest.fixture
def domain() -> Iterator[Domain]:
    """A domain whose host cannot reach the table; its kernel's %rcx points to PFN's entry."""
    domain = Domain()
    domain.machine.probe = replace(domain.machine.probe, reaches_xen_m2p=False)
    fill_m2p(domain.memory, domain.layout)
    domain.cpu.vcpu.rip, domain.cpu.vcpu.rcx = RIP, entry(domain)
    yield domain
    domain.machine.close()


def entry(domain: Domain) -> int:
    return TABLE + domain.layout.mfn(PFN) * 8


def loads(domain: Domain, code: str, address: int) -> bool:
    domain.memory.write(domain.gpa(FREE_PFN) + 0x100, bytes.fromhex(code).ljust(15, b"\x90"))
    return m2p.load(domain.cpu, address)


@pytest.mark.parametrize(
    ("code", "load"),
    [
        ("488b01", m2p.Load("rax", 8, "rcx", None, 1, 0, 3)),
        ("8b01", m2p.Load("rax", 4, "rcx", None, 1, 0, 2)),
        ("408b01", m2p.Load("rax", 4, "rcx", None, 1, 0, 3)),
        ("4d8b7f08", m2p.Load("r15", 8, "r15", None, 1, 8, 4)),
        ("488b41f8", m2p.Load("rax", 8, "rcx", None, 1, -8, 4)),
        ("488b8145230100", m2p.Load("rax", 8, "rcx", None, 1, 0x12345, 7)),
        ("488b04ca", m2p.Load("rax", 8, "rdx", "rcx", 8, 0, 4)),
        ("4e8b24f8", m2p.Load("r12", 8, "rax", "r15", 8, 0, 4)),
        ("488b2424", m2p.Load("rsp", 8, "rsp", None, 1, 0, 4)),
        ("498b0424", m2p.Load("rax", 8, "r12", None, 1, 0, 4)),
        ("498b4500", m2p.Load("rax", 8, "r13", None, 1, 0, 4)),
        ("4a8b44a5f0", m2p.Load("rax", 8, "rbp", "r12", 4, -16, 5)),
        ("488b04cd00f0ffff", m2p.Load("rax", 8, None, "rcx", 8, -0x1000, 8)),
        ("488b042500f0ffff", m2p.Load("rax", 8, None, None, 1, -0x1000, 8)),
        ("488b0511000000", None),  # relative to RIP
        ("488bc1", None),  # a register
        ("488901", None),  # a store
        ("480301", None),  # add
        ("0fb701", None),  # movzwl
        ("8a01", None),
        ("668b01", None),
        ("658b01", None),  # of GS
        ("678b01", None),
        ("f0488b01", None),
        ("40488b01", None),  # two REX
        ("4866", None),
        ("", None),
    ],
)
def test_forms(code: str, load: m2p.Load | None) -> None:
    assert m2p.decode(bytes.fromhex(code)) == load
    assert m2p.decode(bytes.fromhex(code).ljust(15, b"\x90")) == load
    if load:
        # No byte of it can be missing.
        assert not any(m2p.decode(bytes.fromhex(code)[:n]) for n in range(len(code) // 2))


@given(st.binary(max_size=15) | st.builds(lambda tail: b"\x48\x8b" + tail, st.binary(max_size=13)))
def test_no_load_is_longer_than_its_code(code: bytes) -> None:
    load = m2p.decode(code)
    assert load is None or 2 <= load.length <= len(code)


def test_a_load_is_done(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.rax = MASK64
    assert loads(domain, "488b01", entry(domain))
    assert (vcpu.rax, vcpu.rip) == (PFN, RIP + 3)


def test_a_load_of_half_an_entry_clears_the_upper_half(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.rip, vcpu.rax, vcpu.rcx = RIP, MASK64, entry(domain) + 4
    assert loads(domain, "8b01", vcpu.rcx)
    assert (vcpu.rax, vcpu.rip) == (0, RIP + 2)


def test_addresses_wrap(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.rdx, vcpu.rcx = entry(domain) + 0x10, (1 << 61) - 1
    assert loads(domain, "488b44caf8", entry(domain))
    assert vcpu.rax == PFN


@pytest.mark.parametrize(
    ("code", "beyond", "flags"),
    [
        ("480301", 0, 0),  # no load
        ("488b01", 8, 0),  # it reads elsewhere
        ("488b01", 0, TF),  # its step is to trap
        ("488b4104", 4, 0),
    ],
)
def test_what_is_not_done_changes_nothing(
    domain: Domain, code: str, beyond: int, flags: int
) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.rax, vcpu.rflags = 7, flags | 0x202
    address = entry(domain) + beyond
    if beyond == 4:
        # The last four bytes of the table, and the four after it.
        address = TABLE + domain.layout.m2p_bytes - 4
        vcpu.rcx = address - 4
    assert not loads(domain, code, address)
    assert (vcpu.rax, vcpu.rip) == (7, RIP)


def test_only_that_slot_is_out_of_reach(domain: Domain) -> None:
    assert m2p.is_out_of_reach(domain.cpu, TABLE)
    assert m2p.is_out_of_reach(domain.cpu, TABLE + (1 << 39) - 1)
    assert not m2p.is_out_of_reach(domain.cpu, TABLE - 1)
    assert not m2p.is_out_of_reach(domain.cpu, TABLE + (1 << 39))
    domain.machine.probe = replace(domain.machine.probe, reaches_xen_m2p=True)
    assert not m2p.is_out_of_reach(domain.cpu, TABLE)
