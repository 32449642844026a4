"""A whole machine without /dev/kvm: everything is real but KVM's descriptors.

Its memory is mapped for the guest's kernel at `va(pfn)`, and SCRATCH is a page of it for
arguments. Nothing can run: KVM_RUN fails on descriptor -1.
"""

from __future__ import annotations

import mmap
from unittest.mock import patch

from kvmxen.kvm.ioctl import KvmError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.kvm.structs import CpuidEntry, Debugregs, Sregs
from kvmxen.kvm.system import Cap
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.features import Features, Filter
from kvmxen.pv.hypercalls.table import hypercall
from kvmxen.pv.machine import End, Machine
from kvmxen.pv.probe import Probe
from kvmxen.pv.shim.plan import plan

MEMORY = 8 << 20
NR_PAGES = MEMORY >> PAGE_SHIFT
# The guest's kernel sees its memory here, as in Linux.
BASE = 0xFFFF888000000000
# The last page of the address space is mapped too.
TOP = 0xFFFFFFFFFFFFF000
NR_TABLES = 6 + NR_PAGES // 512
SCRATCH_PFN = 16
TOP_PFN = 17
USER_L4_PFN = 18
FREE_PFN = 32
SCRATCH = BASE + (SCRATCH_PFN << PAGE_SHIFT)

PRESENT, WRITE, USER = 1, 2, 4
TABLE = PRESENT | WRITE | USER


def va(pfn: int, offset: int = 0) -> int:
    """The address at which the guest's kernel sees byte `offset` of its frame `pfn`."""
    return BASE + (pfn << PAGE_SHIFT) + offset


class System:
    """/dev/kvm of a host that supports everything."""

    def close(self) -> None: ...

    def check_extension(self, cap: Cap) -> int:
        return 1

    def supported_cpuid(self) -> list[CpuidEntry]:
        # A basic CPU: x87, SSE and AVX state in XCR0.
        every = 0xFFFFFFFF
        return [
            CpuidEntry(0, 0, 0, 0xD, 0x756E6547, 0x6C65746E, 0x49656E69),
            CpuidEntry(1, 0, 0, 0x000306C3, 0, every, every),
            CpuidEntry(7, 0, 1, 0, every, every, every),
            CpuidEntry(0xB, 0, 1, 1, 2, 3, 4),
            CpuidEntry(0xD, 0, 1, 7, 576, 832, 0),
            CpuidEntry(0xD, 1, 1, 0xF, 0, 0, 0),
            CpuidEntry(0xD, 2, 1, 256, 576, 0, 0),
            CpuidEntry(0x40000000, 0, 0, 0x40000001, 0, 0, 0),
            CpuidEntry(0x80000000, 0, 0, 0x80000008, 0, 0, 0),
            CpuidEntry(0x80000001, 0, 0, 0, 0, every, every),
        ]


class Vm:
    """A VM whose clock stands still until a test moves `now` (ns)."""

    def __init__(self, _system: System) -> None:
        self.now = 1_000_000_000
        self.signalled: list[tuple[int, int]] = []

    def close(self) -> None: ...

    def enable_cap(self, cap: Cap, argument: int) -> None: ...

    def set_memory(self, slot: int, gpa: int, size: int, host_address: int) -> None: ...

    def signal_msi(self, index: int, vector: int) -> None:
        self.signalled.append((index, vector))

    def clock(self) -> int:
        return self.now


class VcpuFd:
    """A vCPU's registers; its fd can only fail."""

    def __init__(self, _system: System, _vm: Vm, index: int) -> None:
        self.index = index
        self.fd = -1
        self.run = mmap.mmap(-1, 3 * PAGE_SIZE)
        self.msrs: dict[int, int] = {}
        self.sregs, self.debugregs = Sregs(), Debugregs()
        self.xcr0 = 1

    def close(self) -> None: ...

    def get_sregs(self) -> Sregs:
        return Sregs.from_buffer_copy(self.sregs)

    def set_sregs(self, sregs: Sregs) -> None:
        self.sregs = sregs

    def get_msr(self, index: int) -> int:
        return self.msrs.get(index, 0)

    def set_msr(self, index: int, value: int) -> None:
        assert 0 <= value < 1 << 64
        self.msrs[index] = value

    def set_cpuid(self, entries: list[CpuidEntry]) -> None:
        self.cpuid = entries

    def set_runnable(self) -> None: ...

    def get_debugregs(self) -> Debugregs:
        return Debugregs.from_buffer_copy(self.debugregs)

    def set_debugregs(self, debugregs: Debugregs) -> None:
        if debugregs.dr6 >> 32 or debugregs.dr7 >> 32:
            raise KvmError("KVM_SET_DEBUGREGS", 22)
        self.debugregs = debugregs

    def set_xcr0(self, value: int) -> None:
        # As in KVM: x87 always, AVX needs SSE, and AVX-512's components need each other and AVX.
        if not value & 1 or value & 6 == 4 or (value & 0xE0 and value & 0xE7 != 0xE7):
            raise KvmError("KVM_SET_XCRS", 22)
        self.xcr0 = value

    def tsc_khz(self) -> int:
        return 2_000_000


class Domain:
    """A machine of `vcpus` vCPUs on a host with `features`; `ends` and `output` record its
    reports to its owner."""

    def __init__(self, vcpus: int = 1, features: Features | None = None) -> None:
        features = features or Features(Filter.WHOLE, True, tuple(System().supported_cpuid()))
        probe = Probe(True, True, True, True, features)
        self.layout = plan(MEMORY, vcpus)
        self.ends: list[End] = []
        self.output: list[bytes] = []
        with (
            patch.multiple("kvmxen.pv.machine", System=System, Vm=Vm, VcpuFd=VcpuFd),
            patch("kvmxen.pv.machine.probe", return_value=probe),
        ):
            self.machine = Machine(self.layout, ended=self.ends.append)
            self.machine.emergency_output = self.output.append
        self.memory = self.machine.memory
        self.tables = self.machine.tables
        self.cpus: list[Cpu] = self.machine.cpus
        self.cpu = self.cpus[0]
        self.cr3 = self._map()
        for cpu in self.cpus:
            self.tables.install(cpu.vcpu, self.cr3)
        self.cpu.initialised = self.cpu.up = True

    def gpa(self, pfn: int) -> int:
        """The gpa of the guest's frame `pfn`."""
        return self.layout.mfn(pfn) << PAGE_SHIFT

    def hypercall(self, number: int, *arguments: int) -> int | None:
        """Make a hypercall from vCPU 0."""
        return hypercall(self.cpu, number, [*arguments, *(0,) * (6 - len(arguments))])

    def put(self, data: bytes, offset: int = 0) -> int:
        """Store `data` in the scratch page; return its guest address."""
        self.memory.write(self.gpa(SCRATCH_PFN) + offset, data)
        return SCRATCH + offset

    def get(self, length: int, offset: int = 0) -> bytes:
        """The contents of the scratch page."""
        return self.memory.read(self.gpa(SCRATCH_PFN) + offset, length)

    def entry(self, level: int, address: int) -> int:
        """The gpa of the entry for `address` in its table of `level`."""
        table = self.cr3
        for at in range(4, level, -1):
            table = self.memory.read_u64(table + (address >> 12 + 9 * (at - 1) & 511) * 8)
            table &= 0x000FFFFFFFFFF000
        return table + (address >> 12 + 9 * (level - 1) & 511) * 8

    def _map(self) -> int:
        """Build page tables in the guest's first frames: all of its memory at BASE."""
        l4, l3, l2, top_l3, top_l2, top_l1 = map(self.gpa, range(6))
        put = self.memory.write_u64
        put(l4 + (BASE >> 39 & 511) * 8, l3 | TABLE)
        put(l4 + 511 * 8, top_l3 | TABLE)
        put(l3, l2 | TABLE)
        put(top_l3 + 511 * 8, top_l2 | TABLE)
        put(top_l2 + 511 * 8, top_l1 | TABLE)
        put(top_l1 + 511 * 8, self.gpa(TOP_PFN) | TABLE)
        for index in range(NR_PAGES // 512):
            l1 = self.gpa(6 + index)
            put(l2 + index * 8, l1 | TABLE)
            self.memory.fill_u64(l1, 512, self.gpa(index * 512) | TABLE, PAGE_SIZE)
        return l4
