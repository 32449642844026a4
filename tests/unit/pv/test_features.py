"""The probing of ring 3, and its conclusions: on a forged processor, and on this host's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ctypes import sizeof
from pathlib import Path
from typing import cast

import pytest

from kvmxen.errors import GuestCrash
from kvmxen.kvm.memory import GuestMemory
from kvmxen.kvm.structs import CpuidEntry, Sregs
from kvmxen.pv import features
from kvmxen.pv.features import Filter, look
from kvmxen.pv.machine import Machine
from kvmxen.pv.ring3 import Ring3
from kvmxen.pv.shim.plan import plan
from kvmxen.xen.abi import x86
from kvmxen.xen.cpuid import EDX, CpuidPolicy, Feature
from tests.resources import has_kvm
from tests.unit.forged import Domain, VcpuFd
from tests.unit.xen.cpuids import recorded

CODE_VA = 0x10000
XEN_LEAF = 0x40000000
REGISTERS = ("eax", "ebx", "ecx", "edx")


class Processor:
    """Stands in for Ring3, its vCPU and its fd: `leaves` are its CPUID, `lacking` its missing
    instructions; `xcr0` is fixed unless `sets_xcr0`."""

    data_va, code_va, data_gpa = 0x20000, CODE_VA, 0x1000

    def __init__(self, memory: GuestMemory, leaves: list[CpuidEntry], xcr0: int) -> None:
        self.fd = self.vcpu = self
        self.memory = memory
        self.leaves = {(entry.function, entry.index): entry for entry in leaves}
        self.lacking: set[str] = set()
        self.xcr0 = xcr0
        self.sets_xcr0 = self.clears_base = True
        self.faults_cpuid = False
        self.stray: int | None = None
        self.rax = self.rbp = self.rsi = self.rip = 0
        self.sregs = Sregs()

    def get_sregs(self) -> Sregs:
        return self.sregs

    def set_sregs(self, sregs: Sregs) -> None:
        self.sregs = sregs

    def set_xcr0(self, value: int) -> None:
        if self.sets_xcr0:
            self.xcr0 = value

    def load(self, code: bytes) -> None:
        self.code = code

    def run(self, offset: int = 0) -> int:
        if b"\x0f\xa2" in self.code:
            if self.faults_cpuid:
                return x86.TRAP_GENERAL_PROTECTION
            self._cpuid()
        elif self.code == bytes.fromhex("31c90f01d0"):
            self.rax = self.xcr0
        elif self.code == b"\x8e\xe0":
            self.sregs.fs.base *= not self.clears_base
        elif self.stray is not None:
            self.rip = self.stray
            return x86.TRAP_INVALID_OPCODE
        else:
            self.tried = self.code
            for at in range(offset, len(self.code), 16):
                if any(self.code[at:].startswith(bytes.fromhex(code)) for code in self.lacking):
                    # It may not be the first instruction of its slot.
                    self.rip = CODE_VA + at + 4
                    return x86.TRAP_INVALID_OPCODE
        return x86.TRAP_BREAKPOINT

    def _cpuid(self) -> None:
        assert self.rsi == self.data_va
        size = sizeof(CpuidEntry)
        for gpa in range(self.data_gpa, self.data_gpa + self.rbp * size, size):
            entry = CpuidEntry.from_buffer_copy(self.memory.read(gpa, size))
            known = self.leaves.get((entry.function, entry.index), CpuidEntry())
            for register in REGISTERS:
                setattr(entry, register, getattr(known, register))
            self.memory.write(gpa, bytes(entry))


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(1 << 16)
    yield memory
    memory.release()


def policy(leaves: list[CpuidEntry]) -> CpuidPolicy:
    return CpuidPolicy(leaves, xen_version=1, address_bits=36)


def seen(memory: GuestMemory, processor: Processor, told: CpuidPolicy) -> features.Features:
    return look(memory, cast(Ring3, processor), told)


def by_leaf(found: features.Features) -> dict[tuple[int, int], CpuidEntry]:
    return {(entry.function, entry.index): entry for entry in found.leaves}


def test_an_ordinary_host(memory: GuestMemory) -> None:
    # Its KVM supports the processor's features, and shows what it is given.
    told = policy(recorded("intel-software-kvm").ring3)
    found = seen(memory, Processor(memory, told.entries(5), told.xcr0), told)
    assert found.filter is Filter.WHOLE
    assert found.sets_xcr0
    assert told.is_shown_by(found.leaves)


@pytest.mark.parametrize("name", ["intel-software-kvm", "amd-software-kvm"])
@pytest.mark.parametrize("shows_xen", [True, False])
def test_a_host_that_shows_features_of_its_own(
    memory: GuestMemory, name: str, shows_xen: bool
) -> None:
    host = recorded(name)
    told = policy(host.kvm)
    xen = [entry for entry in told.entries(0) if entry.function == XEN_LEAF]
    processor = Processor(memory, [*host.ring3, *xen] if shows_xen else host.ring3, host.xcr0)
    processor.sets_xcr0 = False
    found = seen(memory, processor, told)
    assert found.filter is (Filter.PART if shows_xen else Filter.NONE)
    assert not found.sets_xcr0
    assert policy(list(found.leaves)).xcr0 == host.xcr0 & 0xE7


def test_registers_that_xcr0_lacks_are_not_there(memory: GuestMemory) -> None:
    host = recorded("intel-software-kvm")
    found = seen(memory, Processor(memory, host.ring3, 0x7), policy(host.kvm))
    assert by_leaf(found)[0xD, 0].eax == 7
    assert policy(list(found.leaves)).xcr0 == 7


@pytest.mark.parametrize("feature", features.TRIALS)
def test_what_does_not_work_is_not_there(memory: GuestMemory, feature: Feature) -> None:
    every = [CpuidEntry(f, i, 0, *[0xFFFFFFFF] * 4) for f, i, _, _ in features.TRIALS] + recorded(
        "amd-software-kvm"
    ).kvm[:1]
    told = policy([])
    whole = by_leaf(seen(memory, Processor(memory, every, 7), told))
    processor = Processor(memory, every, 7)
    # Another one follows, so that the trials continue.
    processor.lacking = {features.TRIALS[feature], list(features.TRIALS.values())[-1]}
    found = by_leaf(seen(memory, processor, told))
    gone = {
        Feature(*leaf, register, bit)
        for leaf, entry in found.items()
        for register, name in enumerate(REGISTERS)
        for bit in range(32)
        if (getattr(entry, name) ^ getattr(whole[leaf], name)) >> bit & 1
    }
    assert gone == {feature, list(features.TRIALS)[-1]}


def test_only_what_is_shown_is_tried(memory: GuestMemory) -> None:
    host = recorded("amd-software-kvm")
    processor = Processor(memory, host.ring3, host.xcr0)
    seen(memory, processor, policy(host.kvm))
    avx, avx512 = (bytes.fromhex(code) for code in ("c5fc58c0", "62f17c4858c0"))
    assert avx in processor.tried
    assert avx512 not in processor.tried


def test_cpuid_that_traps_is_no_processor_to_go_on_with(memory: GuestMemory) -> None:
    processor = Processor(memory, [], 7)
    processor.faults_cpuid = True
    with pytest.raises(GuestCrash, match="CPUID traps in ring 3"):
        seen(memory, processor, policy([]))


@pytest.mark.parametrize("rip", [CODE_VA - 1, CODE_VA + 0x1000, 0])
def test_a_trap_where_there_is_nothing_to_try_ends_it(memory: GuestMemory, rip: int) -> None:
    host = recorded("amd-software-kvm")
    processor = Processor(memory, host.ring3, host.xcr0)
    processor.stray = rip
    with pytest.raises(GuestCrash, match="trap of ring 3"):
        seen(memory, processor, policy(host.kvm))


@pytest.mark.parametrize("clears", [True, False])
def test_null_selectors_are_as_the_processor_has_them(memory: GuestMemory, clears: bool) -> None:
    host = recorded("amd-software-kvm")
    processor = Processor(memory, host.ring3, host.xcr0)
    processor.clears_base = clears
    found = seen(memory, processor, policy(host.kvm))
    assert bool(by_leaf(found)[0x80000021, 0].eax & 1 << 6) == clears


def test_all_vcpus_are_told_of_what_was_found() -> None:
    found = features.Features(Filter.PART, False, tuple(recorded("intel-software-kvm").ring3))
    domain = Domain(vcpus=2, features=found)
    for cpu in domain.cpus:
        told = cast(VcpuFd, cpu.fd).cpuid
        assert policy(told).xcr0 == domain.machine.cpuid.xcr0 == 0xE7
        assert next(entry.ebx for entry in told if entry.function == 1) >> 24 == cpu.index
    domain.machine.close()


@pytest.mark.skipif(not has_kvm(), reason="needs /dev/kvm, readable and writable")
def test_this_host() -> None:
    machine = Machine(plan(32 << 20, 2), ended=lambda _end: None)
    try:
        found, shown = machine.probe.features, machine.cpuid
    finally:
        machine.close()
    # The guest's ring 3 and this program run on the same processor.
    host = Path("/proc/cpuinfo").read_text()
    flags = re.findall(r"^flags\s*:(.*)$", host, re.MULTILINE)[0].split()
    assert shown.vendor.value.decode() in host
    assert shown.leaf(1, 0, 0)[EDX] >> 26 & 1
    assert bool(shown.xcr0) == ("xsave" in flags)
    assert bool(shown.xcr0 & 4) == ("avx" in flags)
    assert bool(shown.xcr0 & 0xE0) == ("avx512f" in flags)
    assert by_leaf(found)[0xD, 0].eax & 0xE7 == shown.xcr0
