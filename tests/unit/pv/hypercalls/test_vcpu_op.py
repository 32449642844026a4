"""VCPUOP_*: bringing up a vCPU from a context in the C compiler's layout, and timers."""

from __future__ import annotations

import errno
import struct
import threading

import pytest

from kvmxen.pv.cpu import Cpu
from kvmxen.pv.hypercalls import initialise as initialise_module
from kvmxen.pv.hypercalls.mmu import MmuExt
from kvmxen.pv.hypercalls.segments import load_gdt
from kvmxen.pv.machine import End
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.xen import DOMID_SELF, CallbackType, Hypercall, Virq
from kvmxen.xen.hypercalls.vcpu_op import VcpuOp
from tests.unit.forged import FREE_PFN, SCRATCH, USER_L4_PFN, Domain, va

EINVAL, ENOENT, EFAULT = -errno.EINVAL, -errno.ENOENT, -errno.EFAULT
CONTEXT_PFN = FREE_PFN
GDT_PFN = FREE_PFN + 2
CONTEXT_SIZE = 5168
# struct vcpu_guest_context (xen/include/public/arch-x86/xen.h), offsets in bytes.
REGS, TRAPS, GDT_FRAMES, GDT_ENTS = 520, 720, 4832, 4960
KERNEL_SP, CTRLREG, CALLBACKS, FS_BASE = 4976, 4984, 5112, 5144
CODE = 0xFFFFFFFF81000000
# In the order of struct cpu_user_regs.
REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi",
)  # fmt: skip


def vcpu_op(domain: Domain, command: int, index: int, body: bytes | None = None) -> int | None:
    argument = SCRATCH if body is None else domain.put(body)
    return domain.hypercall(Hypercall.vcpu_op, command, index, argument)


def context(domain: Domain) -> bytearray:
    """A context like Linux's, with a different value in each register."""
    data = bytearray(CONTEXT_SIZE)
    struct.pack_into("<15Q", data, REGS, *range(15))
    struct.pack_into("<Q", data, REGS + 128, CODE)
    struct.pack_into("<H", data, REGS + 136, 0xE033)
    struct.pack_into("<QQH", data, REGS + 144, 0x1000 | 3 << 12, va(FREE_PFN, 0xFF8), 0xE02B)
    struct.pack_into("<BBH4xQ", data, TRAPS + 14 * 16, 14, 4, 0xE033, CODE + 14)
    struct.pack_into("<Q", data, GDT_FRAMES, domain.layout.mfn(GDT_PFN))
    struct.pack_into("<Q", data, GDT_ENTS, 512)
    struct.pack_into("<Q", data, KERNEL_SP, va(FREE_PFN, 0xF00))
    struct.pack_into("<Q", data, CTRLREG + 3 * 8, domain.cr3)
    struct.pack_into("<Q", data, CTRLREG + 1 * 8, domain.gpa(USER_L4_PFN))
    struct.pack_into("<3Q", data, CALLBACKS, CODE + 1, CODE + 2, CODE + 3)
    struct.pack_into("<3Q", data, FS_BASE, 0x1000, 0xFFFF888000000000, 0x3000)
    return data


def initialise(domain: Domain, data: bytes | bytearray) -> int | None:
    domain.memory.write(domain.gpa(CONTEXT_PFN), data)
    return domain.hypercall(Hypercall.vcpu_op, VcpuOp.INITIALISE, 1, va(CONTEXT_PFN))


def test_a_vcpu_starts_with_its_context(domain: Domain) -> None:
    domain.memory.write_u64(domain.gpa(GDT_PFN) + 8, 0x00CFF3000000FFFF)
    assert vcpu_op(domain, VcpuOp.UP, 1) == EINVAL
    assert initialise(domain, context(domain)) == 0
    target = domain.cpus[1]
    vcpu = target.vcpu
    assert [getattr(vcpu, name) for name in REGISTERS] == list(range(15))
    assert (vcpu.rip, vcpu.rsp) == (CODE, va(FREE_PFN, 0xFF8))
    assert (vcpu.cs, vcpu.ss) == (0xE033, 0xE02B)
    # Interrupts on and no IOPL, whatever the guest asked for: IOPL is emulated.
    assert vcpu.rflags == 0x202
    assert vcpu.iopl == 3
    assert domain.cpu.vcpu.iopl == 0
    assert (vcpu.kernel_cr3, vcpu.user_cr3) == (domain.cr3, domain.gpa(USER_L4_PFN))
    assert target.kernel_sp == va(FREE_PFN, 0xF00)
    assert target.trap_table == {14: (4, CODE + 14)}
    assert target.callbacks[CallbackType.SYSCALL] == (CODE + 3, False)
    assert target.initial_msrs == {
        x86.MSR_FS_BASE: 0x1000,
        x86.MSR_GS_BASE: 0xFFFF888000000000,
        x86.MSR_KERNEL_GS_BASE: 0x3000,
    }
    assert domain.memory.read_u64(target.gdt_gpa + 8) == 0x00CFF3000000FFFF
    assert initialise(domain, context(domain)) == -errno.EEXIST
    assert vcpu_op(domain, VcpuOp.IS_UP, 1) == 0
    assert vcpu_op(domain, VcpuOp.UP, 1) == 0
    assert vcpu_op(domain, VcpuOp.IS_UP, 1) == 1
    assert vcpu_op(domain, VcpuOp.DOWN, 1) == 0
    assert vcpu_op(domain, VcpuOp.IS_UP, 1) == 0
    assert domain.ends == []


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (REGS + 128, 1 << 47),
        (FS_BASE, 1 << 47),
        (FS_BASE + 8, 1 << 47),
        (FS_BASE + 16, 1 << 63),
        (CALLBACKS, 1 << 47),
        (TRAPS + 16 + 8, 1 << 47),
        (CTRLREG + 3 * 8, 0),
        (CTRLREG + 3 * 8, (1 << 64) - 1),
        (CTRLREG + 1 * 8, 0x1000),
        (GDT_FRAMES, 0),
        (GDT_ENTS, 7169),
        (GDT_ENTS, (1 << 64) - 1),
    ],
)
def test_a_context_that_is_refused(domain: Domain, offset: int, value: int) -> None:
    data = context(domain)
    struct.pack_into("<Q", data, offset, value)
    assert initialise(domain, data) == EINVAL
    assert not domain.cpus[1].initialised
    assert initialise(domain, context(domain)) == 0


def test_the_last_vcpu_that_goes_down_ends_the_domain(domain: Domain) -> None:
    assert vcpu_op(domain, VcpuOp.DOWN, 0) == 0
    assert domain.ends == [End.POWEROFF]


@pytest.mark.parametrize("index", [2, 64, 0xFFFFFFFF])
def test_a_vcpu_that_does_not_exist(domain: Domain, index: int) -> None:
    for command in (*VcpuOp, 99):
        assert vcpu_op(domain, command, index) == ENOENT


@pytest.mark.parametrize(
    ("command", "index", "body", "answer"),
    [
        (VcpuOp.SET_PERIODIC_TIMER, 0, struct.pack("<Q", 999_999), EINVAL),
        (VcpuOp.SET_PERIODIC_TIMER, 0, struct.pack("<Q", 1 << 63), EINVAL),
        (VcpuOp.SET_PERIODIC_TIMER, 1, struct.pack("<Q", 1_000_000), 0),
        (VcpuOp.STOP_PERIODIC_TIMER, 1, b"", 0),
        (VcpuOp.SET_SINGLESHOT_TIMER, 1, struct.pack("<QI", 5, 0), EINVAL),
        (VcpuOp.SET_SINGLESHOT_TIMER, 0, struct.pack("<QI", 5, 0), 0),
        (VcpuOp.SET_SINGLESHOT_TIMER, 0, struct.pack("<QI", 5, 1), -errno.ETIME),
        (VcpuOp.STOP_SINGLESHOT_TIMER, 0, b"", 0),
        (VcpuOp.STOP_SINGLESHOT_TIMER, 1, b"", EINVAL),
        (VcpuOp.GET_PHYSID, 0, b"", EINVAL),
        (VcpuOp.SEND_NMI, 1, b"", 0),
        (14, 0, b"", -errno.ENOSYS),
        (0xFFFFFFFF, 0, b"", -errno.ENOSYS),
    ],
)
def test_answers(domain: Domain, command: int, index: int, body: bytes, answer: int) -> None:
    assert vcpu_op(domain, command, index, body) == answer


def test_one_vcpu_at_a_time_initialises_another(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call arrives while the first handles the GDT: it finds the first call's complete
    result."""
    results: list[int | None] = []
    second = threading.Thread(target=lambda: results.append(initialise(domain, context(domain))))

    def meanwhile(target: Cpu, frames: list[int]) -> None:
        monkeypatch.setattr(initialise_module, "load_gdt", load_gdt)
        second.start()
        second.join(0.2)
        load_gdt(target, frames)

    monkeypatch.setattr(initialise_module, "load_gdt", meanwhile)
    results.append(initialise(domain, context(domain)))
    second.join()
    assert sorted(results, key=str) == [-errno.EEXIST, 0]


@pytest.mark.parametrize("command", [0, 4, 5, 6, 8, 10, 13])
def test_a_structure_that_is_not_there(domain: Domain, command: int) -> None:
    index = 1 if command == VcpuOp.INITIALISE else 0
    assert domain.hypercall(Hypercall.vcpu_op, command, index, 0x1000) == EFAULT


def register_info(domain: Domain, index: int, mfn: int, offset: int) -> int | None:
    body = struct.pack("<QI", mfn, offset)
    return vcpu_op(domain, VcpuOp.REGISTER_VCPU_INFO, index, body)


def test_a_registered_vcpu_info_takes_over(domain: Domain) -> None:
    port = domain.machine.events.bind_virq(Virq.TIMER, 0)
    domain.memory.write_u8(domain.cpu.info_gpa + 1, 1)
    mfn = domain.layout.mfn(FREE_PFN)
    assert register_info(domain, 0, mfn, 64) == 0
    info = domain.gpa(FREE_PFN) + 64
    assert domain.cpu.info_gpa == info
    # The mask was carried over, and every port must be checked.
    assert domain.memory.read(info, 2) == b"\x01\x01"
    assert domain.memory.read_u64(info + 8) == (1 << 64) - 1
    domain.memory.write_u64(info + 8, 0)
    domain.machine.events.raise_virq(Virq.TIMER, 0)
    assert domain.memory.read_u64(info + 8) == 1 << (port >> 6)
    assert register_info(domain, 0, mfn, 128) == EINVAL


@pytest.mark.parametrize("offset", [4096 - 63, 4096, 0xFFFFFFF8, 4])
def test_a_vcpu_info_lies_in_one_frame(domain: Domain, offset: int) -> None:
    assert register_info(domain, 0, domain.layout.mfn(FREE_PFN), offset) == EINVAL


@pytest.mark.parametrize("mfn", [0, 1 << 40, (1 << 64) - 1])
def test_a_vcpu_info_lies_in_the_guests_memory(domain: Domain, mfn: int) -> None:
    assert register_info(domain, 0, mfn, 0) == EINVAL


def test_only_a_vcpu_that_is_down_is_registered_by_another(domain: Domain) -> None:
    domain.cpus[1].up = True
    assert register_info(domain, 1, domain.layout.mfn(FREE_PFN), 0) == EINVAL
    domain.cpus[1].up = False
    assert register_info(domain, 1, domain.layout.mfn(FREE_PFN), 0) == 0


def test_the_runstate(domain: Domain) -> None:
    area = va(FREE_PFN, 8)
    domain.cpu.runstate.enter(domain.cpu.runstate.state, domain.machine.now())
    body = struct.pack("<Q", area)
    assert vcpu_op(domain, VcpuOp.REGISTER_RUNSTATE_MEMORY_AREA, 0, body) == 0
    shown = domain.memory.read(domain.gpa(FREE_PFN) + 8, 48)
    assert vcpu_op(domain, VcpuOp.GET_RUNSTATE_INFO, 0) == 0
    assert domain.get(48) == shown


def singleshot(domain: Domain) -> int:
    """The time until the timer of vCPU 0 fires, in ns; -1 for never."""
    armed: list[int] = []
    domain.cpu.timer._arm = armed.append
    domain.cpu.timer.set_periodic(0)
    domain.cpu.timer.program()
    return armed[-1] - domain.machine.now() if armed and armed[-1] else -1


@pytest.mark.parametrize(
    ("ahead", "fires"),
    [
        (5_000, 5_000),
        (-5_000, -5_000),
        ((1 << 50) - 1, (1 << 50) - 1),
        (1 << 50, 100_000_000),
        ((1 << 62), 100_000_000),
        ((1 << 63), 100_000_000),
    ],
)
def test_set_timer_op(domain: Domain, ahead: int, fires: int) -> None:
    assert domain.hypercall(Hypercall.set_timer_op, domain.machine.now() + ahead) == 0
    assert singleshot(domain) == fires


def test_set_timer_op_stops_the_timer(domain: Domain) -> None:
    assert domain.hypercall(Hypercall.set_timer_op, domain.machine.now() + 5) == 0
    assert domain.hypercall(Hypercall.set_timer_op, 0) == 0
    assert singleshot(domain) == -1


def test_a_flush_of_all_leaves_those_that_are_down(domain: Domain) -> None:
    body = struct.pack("<I4xQQ", MmuExt.TLB_FLUSH_ALL, 0, 0)
    assert domain.hypercall(Hypercall.mmuext_op, domain.put(body), 1, 0, DOMID_SELF) == 0
    assert not domain.cpus[1].vcpu.flush_pending
