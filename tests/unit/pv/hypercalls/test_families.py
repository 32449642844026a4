"""The answers of each hypercall family: tables of (call, structure in memory, answer)."""

from __future__ import annotations

import errno
import struct

import pytest

from kvmxen.pv.hypercalls.physdev_op import PhysdevOp
from kvmxen.pv.machine import End
from kvmxen.xen.abi import x86, xen
from kvmxen.xen.abi.xen import DOMID_GUEST, DOMID_SELF, CallbackType, Hypercall, Shutdown, Virq
from kvmxen.xen.events import Status
from kvmxen.xen.hypercalls.event_channel_op import EvtchnOp
from kvmxen.xen.hypercalls.memory_op import Memory
from kvmxen.xen.hypercalls.sched_op import SchedOp
from kvmxen.xen.hypercalls.version import FEATURES, Version
from tests.unit.forged import SCRATCH, TOP, TOP_PFN, Domain

ENOSYS, EINVAL, EFAULT, EPERM = -errno.ENOSYS, -errno.EINVAL, -errno.EFAULT, -errno.EPERM
NOWHERE = 0x1000
XENS_LAST = xen.HYPERVISOR_VIRT_END - 1
H = Hypercall
# The operations that read no structure, or have one of their own test.
MEMORY_WITHOUT = {
    Memory.INCREASE_RESERVATION, Memory.DECREASE_RESERVATION, Memory.MAXIMUM_RAM_PAGE,
    Memory.POPULATE_PHYSMAP,
}  # fmt: skip
VERSIONS_WITHOUT = {Version.VERSION, Version.PAGESIZE}


def callback(kind: int, address: int = 0) -> bytes:
    """A struct callback_register; CALLBACKOP_unregister reads its first field."""
    return struct.pack("<HH4xQ", kind, 0, address)


def with_structure(domain: Domain, call: Hypercall, command: int, body: bytes) -> int | None:
    return domain.hypercall(call, command, domain.put(body))


@pytest.mark.parametrize("number", [*set(range(64)) - set(H), H.hvm_op, 1 << 32 | 17])
def test_unknown_hypercalls_are_counted(domain: Domain, number: int) -> None:
    assert domain.hypercall(number) == ENOSYS
    assert sum(domain.cpu.vcpu.hypercalls.values()) == 1


# The fields of the structure in memory, then the answer.
@pytest.mark.parametrize(
    ("call", "command", "body", "answer"),
    [
        (H.event_channel_op, EvtchnOp.BIND_VIRQ, struct.pack("<II", Virq.TIMER, 9), -errno.ENOENT),
        (H.event_channel_op, EvtchnOp.BIND_IPI, struct.pack("<I", 2), -errno.ENOENT),
        (H.event_channel_op, EvtchnOp.BIND_PIRQ, bytes(12), EPERM),
        (H.event_channel_op, EvtchnOp.ALLOC_UNBOUND, struct.pack("<HH", 7, 0), EPERM),
        (H.event_channel_op, EvtchnOp.BIND_INTERDOMAIN, struct.pack("<H2xI", 3, 1), -errno.ESRCH),
        (H.event_channel_op, EvtchnOp.BIND_INTERDOMAIN, struct.pack("<H2xI", 1, 9), EINVAL),
        (H.event_channel_op, EvtchnOp.SEND, struct.pack("<I", 0), EINVAL),
        (H.event_channel_op, EvtchnOp.CLOSE, struct.pack("<I", 4096), EINVAL),
        (H.event_channel_op, EvtchnOp.STATUS, struct.pack("<H2xI", DOMID_SELF, 77), EINVAL),
        (H.event_channel_op, EvtchnOp.STATUS, struct.pack("<H2xI", 5, 1), EPERM),
        (H.event_channel_op, EvtchnOp.RESET, struct.pack("<H", 5), EPERM),
        (H.event_channel_op, 11, bytes(64), ENOSYS),
        (H.event_channel_op, 0xFFFFFFFF, bytes(64), ENOSYS),
        (H.vcpu_op, xen.VCPUOP_initialise, b"", EFAULT),
        (H.sched_op, xen.SCHEDOP_shutdown, struct.pack("<I", 6), EINVAL),
        (H.sched_op, xen.SCHEDOP_shutdown_code, struct.pack("<I", 6), EINVAL),
        (H.sched_op, xen.SCHEDOP_shutdown_code, struct.pack("<I", Shutdown.CRASH), 0),
        (H.sched_op, xen.SCHEDOP_poll, struct.pack("<QI4xQ", SCRATCH, 129, 0), EINVAL),
        (H.sched_op, xen.SCHEDOP_poll, struct.pack("<QI4xQ", NOWHERE, 1, 0), EFAULT),
        (H.sched_op, xen.SCHEDOP_poll, struct.pack("<QI4xQII", SCRATCH + 24, 1, 0, 99, 0), EINVAL),
        (H.sched_op, 4, bytes(64), ENOSYS),
        (H.sched_op, xen.SCHEDOP_watchdog, struct.pack("<II", 1, 9), EINVAL),
        (H.sched_op_compat, xen.SCHEDOP_poll, bytes(64), ENOSYS),
        (H.physdev_op, xen.PHYSDEVOP_set_iopl, struct.pack("<I", 1), 0),
        (H.physdev_op, xen.PHYSDEVOP_set_iopl, struct.pack("<I", 4), EINVAL),
        (H.physdev_op, xen.PHYSDEVOP_set_iobitmap, struct.pack("<QI", NOWHERE, 0x10000), 0),
        (H.physdev_op, xen.PHYSDEVOP_set_iobitmap, struct.pack("<QI", NOWHERE, 0x10001), EINVAL),
        (H.physdev_op, xen.PHYSDEVOP_set_iobitmap, struct.pack("<QI", 1 << 47, 8), EINVAL),
        (H.physdev_op, xen.PHYSDEVOP_set_iobitmap, struct.pack("<QI", XENS_LAST, 8), EINVAL),
        (H.physdev_op, 10, bytes(64), ENOSYS),
        (H.callback_op, xen.CALLBACKOP_register, callback(CallbackType.EVENT, 1 << 47), EINVAL),
        (H.callback_op, xen.CALLBACKOP_register, callback(3, 4096), ENOSYS),
        (H.callback_op, xen.CALLBACKOP_register, callback(8, 4096), ENOSYS),
        (H.callback_op, xen.CALLBACKOP_unregister, callback(CallbackType.EVENT), EINVAL),
        (H.callback_op, xen.CALLBACKOP_unregister, callback(CallbackType.SYSCALL32), EINVAL),
        (H.callback_op, xen.CALLBACKOP_unregister, callback(CallbackType.NMI), 0),
        (H.callback_op, xen.CALLBACKOP_unregister, callback(3), ENOSYS),
        (H.callback_op, 2, bytes(64), ENOSYS),
        (H.nmi_op, xen.XENNMI_unregister_callback, bytes(8), 0),
        (H.nmi_op, 2, bytes(8), ENOSYS),
        (H.xen_version, Version.GET_FEATURES, struct.pack("<II", 1, 0), EINVAL),
        (H.xen_version, 10, bytes(64), ENOSYS),
        (H.vm_assist, 2, bytes(8), ENOSYS),
        (H.console_io, 2, bytes(8), ENOSYS),
        (H.memory_op, 60, bytes(64), ENOSYS),
        (H.memory_op, xen.XENMEM_current_reservation, struct.pack("<H", 5), EPERM),
        (H.memory_op, xen.XENMEM_memory_map, struct.pack("<I4xQ", 0, SCRATCH), -errno.ENOBUFS),
        (H.memory_op, xen.XENMEM_exchange, bytes(72), EPERM),
    ],
)  # fmt: skip
def test_answers(domain: Domain, call: Hypercall, command: int, body: bytes, answer: int) -> None:
    if call is H.vcpu_op:
        assert domain.hypercall(call, command, 1, NOWHERE) == answer
    else:
        assert with_structure(domain, call, command, body) == answer
    # The upper half of a command is ignored.
    if call not in (H.vcpu_op, H.memory_op, H.callback_op):
        assert domain.hypercall(call, command | 1 << 32, SCRATCH) == answer


@pytest.mark.parametrize(
    ("call", "command"),
    [
        *((H.event_channel_op, op) for op in EvtchnOp if op is not EvtchnOp.BIND_PIRQ),
        *((H.sched_op, op) for op in SchedOp if op not in {SchedOp.YIELD, SchedOp.BLOCK}),
        *((H.physdev_op, op) for op in PhysdevOp),
        (H.callback_op, xen.CALLBACKOP_register), (H.callback_op, xen.CALLBACKOP_unregister),
        (H.nmi_op, xen.XENNMI_register_callback),
        *((H.memory_op, op) for op in Memory if op not in MEMORY_WITHOUT),
        *((H.xen_version, op) for op in Version if op not in VERSIONS_WITHOUT),
        (H.set_trap_table, NOWHERE), (H.event_channel_op_compat, NOWHERE),
    ],
)  # fmt: skip
def test_a_structure_that_is_not_there(domain: Domain, call: Hypercall, command: int) -> None:
    assert domain.hypercall(call, command, NOWHERE) == EFAULT


def test_event_channels_by_hypercall(domain: Domain) -> None:
    def port(at: int) -> int:
        return int.from_bytes(domain.get(4, at), "little")

    events = H.event_channel_op
    assert with_structure(domain, events, EvtchnOp.BIND_IPI, struct.pack("<I", 1)) == 0
    ipi = port(4)
    body = struct.pack("<HH", DOMID_SELF, DOMID_SELF)
    assert with_structure(domain, events, EvtchnOp.ALLOC_UNBOUND, body) == 0
    listener = port(4)
    body = struct.pack("<H2xI", DOMID_SELF, listener)
    assert with_structure(domain, events, EvtchnOp.BIND_INTERDOMAIN, body) == 0
    other = port(8)
    body = struct.pack("<II", Virq.TIMER, 1)
    assert with_structure(domain, events, EvtchnOp.BIND_VIRQ, body) == 0
    timer = port(8)
    backend = domain.machine.events.open_backend()
    assert (ipi, listener, other, timer, backend) == (1, 2, 3, 4, 5)
    expected = {
        ipi: struct.pack("<II", Status.IPI, 1),
        listener: struct.pack("<IIH2xI", Status.INTERDOMAIN, 0, DOMID_GUEST, other),
        other: struct.pack("<IIH2xI", Status.INTERDOMAIN, 0, DOMID_GUEST, listener),
        timer: struct.pack("<III", Status.VIRQ, 1, Virq.TIMER),
        backend: struct.pack("<IIH2xI", Status.INTERDOMAIN, 0, 0, 0),
    }
    for number, status in expected.items():
        body = struct.pack("<H2xI", DOMID_SELF, number)
        assert with_structure(domain, events, EvtchnOp.STATUS, body) == 0
        assert domain.get(len(status), 8) == status
    compat = struct.pack("<I", EvtchnOp.CLOSE) + struct.pack("<I", ipi)
    assert domain.hypercall(H.event_channel_op_compat, domain.put(compat)) == 0
    assert domain.hypercall(H.event_channel_op_compat, SCRATCH) == EINVAL


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        (Shutdown.POWEROFF, End.POWEROFF),
        (Shutdown.REBOOT, End.REBOOT),
        (Shutdown.CRASH, End.CRASH),
        (Shutdown.WATCHDOG, End.CRASH),
        (Shutdown.SOFT_RESET, End.REBOOT),
    ],
)
def test_shutdown(domain: Domain, reason: Shutdown, end: End) -> None:
    assert with_structure(domain, H.sched_op, xen.SCHEDOP_shutdown, struct.pack("<I", reason)) == 0
    assert domain.ends == [end]


def test_suspend_is_cancelled(domain: Domain) -> None:
    body = struct.pack("<I", Shutdown.SUSPEND)
    assert with_structure(domain, H.sched_op, xen.SCHEDOP_shutdown, body) == 1
    assert domain.ends == []


def test_the_old_shutdown_has_its_reason_in_a_register(domain: Domain) -> None:
    assert domain.hypercall(H.sched_op_compat, xen.SCHEDOP_shutdown, Shutdown.REBOOT) == 0
    assert domain.ends == [End.REBOOT]


def test_xen_version(domain: Domain) -> None:
    assert domain.hypercall(H.xen_version, Version.VERSION) == 4 << 16 | 17
    assert domain.hypercall(H.xen_version, Version.PAGESIZE) == 4096
    assert with_structure(domain, H.xen_version, Version.GET_FEATURES, bytes(8)) == 0
    assert domain.get(4, 4) == struct.pack("<I", FEATURES)
    sizes = {
        Version.EXTRAVERSION: 16,
        Version.COMPILE_INFO: 144,
        Version.CAPABILITIES: 1024,
        Version.CHANGESET: 64,
        Version.PLATFORM_PARAMETERS: 8,
        Version.GUEST_HANDLE: 16,
        Version.COMMANDLINE: 1024,
    }
    for command, size in sizes.items():
        assert with_structure(domain, H.xen_version, command, b"\xee" * 1100) == 0
        assert domain.get(1, size - 1) != b"\xee"
        assert domain.get(4, size) == b"\xee" * 4
    assert with_structure(domain, H.xen_version, Version.CAPABILITIES, b"") == 0
    assert domain.get(15) == b"xen-3.0-x86_64 "


def test_console_io(domain: Domain) -> None:
    text = domain.put(b"hello\n")
    assert domain.hypercall(H.console_io, 0, 6, text) == 0
    assert b"".join(domain.output) == b"hello\n"
    assert domain.hypercall(H.console_io, 1, 6, text) == 0
    assert domain.hypercall(H.console_io, 0, 6, NOWHERE) == EFAULT


def entry(number: int, *arguments: int) -> bytes:
    return struct.pack("<8Q", number, 0xBAD, *arguments, *(0,) * (6 - len(arguments)))


def test_multicall(domain: Domain) -> None:
    calls = entry(H.xen_version) + entry(99) + entry(H.multicall, SCRATCH, 1)
    assert domain.hypercall(H.multicall, domain.put(calls), 3) == 0
    results = [struct.unpack("<q", domain.get(8, i * 64 + 8))[0] for i in range(3)]
    assert results == [4 << 16 | 17, ENOSYS, ENOSYS]
    assert domain.hypercall(H.multicall, SCRATCH, 1 << 17) == EINVAL
    assert domain.hypercall(H.multicall, NOWHERE, 1) == EFAULT


def test_iret_ends_a_multicall(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    frame = struct.pack("<9Q", 0x77, 0x11, 0x22, 0, TOP, 0xE030, 0x202, SCRATCH, 0xE02B)
    vcpu.rsp = domain.put(frame, 1024)
    calls = entry(H.iret) + entry(H.xen_version)
    assert domain.hypercall(H.multicall, domain.put(calls), 2) is None
    assert (vcpu.rax, vcpu.rip, vcpu.rsp) == (0x77, TOP, SCRATCH)
    results = [struct.unpack("<Q", domain.get(8, i * 64 + 8))[0] for i in range(2)]
    assert results == [0x77, 0xBAD]


def test_a_multicall_beyond_the_last_address(domain: Domain) -> None:
    domain.memory.write(domain.gpa(TOP_PFN) + 4096 - 64, entry(H.xen_version))
    assert domain.hypercall(H.multicall, TOP + 4096 - 64, 2) == EFAULT
    assert domain.memory.read_u64(domain.gpa(TOP_PFN) + 4096 - 56) == 4 << 16 | 17


def test_a_multicall_ends_with_the_domain(domain: Domain) -> None:
    calls = entry(H.sched_op_compat, xen.SCHEDOP_shutdown, Shutdown.POWEROFF) + entry(H.xen_version)
    assert domain.hypercall(H.multicall, domain.put(calls), 2) == 0
    assert struct.unpack("<q", domain.get(8, 64 + 8)) == (0xBAD,)


def test_poll_of_a_pending_port_does_not_sleep(domain: Domain) -> None:
    port = domain.machine.events.open_backend()
    body = struct.pack("<QI4xQI", SCRATCH + 24, 1, 0, port)
    assert with_structure(domain, H.sched_op, xen.SCHEDOP_poll, body) == 0
    assert domain.cpu.blocked
    domain.cpu.blocked = False
    domain.machine.events.notify(port)
    assert with_structure(domain, H.sched_op, xen.SCHEDOP_poll, body) == 0
    assert not domain.cpu.blocked


def test_block_enables_events(domain: Domain) -> None:
    domain.memory.write_u8(domain.cpu.info_gpa + xen.VCPU_INFO_UPCALL_MASK, 1)
    assert domain.hypercall(H.sched_op, xen.SCHEDOP_block) == 0
    assert domain.memory.read(domain.cpu.info_gpa + xen.VCPU_INFO_UPCALL_MASK, 1)[0] == 0
    assert domain.cpu.blocked


def test_the_architectural_iopl_is_the_domains(domain: Domain) -> None:
    enable, disable = xen.VMASST_CMD_enable, xen.VMASST_CMD_disable
    iopl = xen.VMASST_TYPE_architectural_iopl
    for command, other, on in ((enable, disable, True), (disable, enable, False)):
        assert domain.hypercall(H.vm_assist, command, iopl) == 0
        assert [cpu.vcpu.architectural_iopl for cpu in domain.cpus] == [on, on]
        assert domain.hypercall(H.vm_assist, other, iopl + 1) == 0
        assert domain.cpu.vcpu.architectural_iopl == on


def test_task_switched(domain: Domain) -> None:
    assert domain.hypercall(H.fpu_taskswitch, 1) == 0
    assert domain.cpu.vcpu.cr0 & x86.CR0_TS
    assert domain.hypercall(H.fpu_taskswitch, 1 << 32) == 0
    assert not domain.cpu.vcpu.cr0 & x86.CR0_TS


@pytest.mark.parametrize("call", [H.platform_op, H.sysctl, H.domctl, H.kexec_op, H.hypfs_op, H.mca])
def test_what_is_for_dom0_is_refused(domain: Domain, call: Hypercall) -> None:
    assert domain.hypercall(call, NOWHERE) == EPERM
    assert domain.hypercall(call, domain.put(bytes(128))) == EPERM
