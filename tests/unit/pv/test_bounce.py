"""The frames on the guest kernel's stack, byte for byte, and traps that lead to them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from kvmxen.errors import GuestCrash
from kvmxen.pv.bounce import bounce, iret
from kvmxen.pv.exceptions import handle, inject
from kvmxen.pv.shim.abi import constants
from kvmxen.xen.abi.xen import CallbackType
from tests.unit.forged import FREE_PFN, USER_L4_PFN, Domain, va

C = constants()
HANDLER = 0xFFFFFFFF81000000
USER_RIP, USER_SP = 0x401000, 0x7FFFFFFFE008
STACK = va(FREE_PFN, 0x800)
IF, IOPL, TF, NT, DF = 1 << 9, 3 << 12, 1 << 8, 1 << 14, 1 << 10


@pytest.fixture
def domain() -> Iterator[Domain]:
    domain = Domain()
    vcpu = domain.cpu.vcpu
    vcpu.user_cr3 = domain.gpa(USER_L4_PFN)
    vcpu.rip, vcpu.rsp, vcpu.rcx, vcpu.r11 = 0x1111, STACK + 8, 0xCCCC, 0xBBBB
    vcpu.rflags = IF | 2
    yield domain
    domain.machine.close()


def in_user_mode(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.toggle_mode()
    vcpu.rip, vcpu.rsp = USER_RIP, USER_SP
    domain.cpu.kernel_sp = STACK


def masked(domain: Domain) -> int:
    return domain.memory.read(domain.cpu.info_gpa + 1, 1)[0]


def enter(domain: Domain, *, mask_events: bool, error_code: int | None) -> list[int]:
    """Bounce to HANDLER; return the frame that is then on the stack."""
    cpu = domain.cpu
    bounce(cpu.vcpu, cpu.tables, cpu.info_gpa, cpu.kernel_sp, HANDLER, mask_events, error_code)
    assert (cpu.vcpu.rip, cpu.vcpu.cs, cpu.vcpu.ss) == (HANDLER, 0xE033, 0xE02B)
    assert cpu.vcpu.kernel_mode
    words = 7 + (error_code is not None)
    return list(struct.unpack(f"<{words}Q", cpu.read(cpu.vcpu.rsp, words * 8)))


def test_a_frame_from_the_kernel(domain: Domain) -> None:
    frame = enter(domain, mask_events=False, error_code=None)
    # rcx, r11, rip, cs of ring 0, rflags, rsp, ss; the stack aligned as the CPU would.
    assert frame == [0xCCCC, 0xBBBB, 0x1111, 0xE030, IF | 2, STACK + 8, 0xE02B]
    assert domain.cpu.vcpu.rsp == STACK - 7 * 8
    assert masked(domain) == 0


def test_a_frame_from_user_mode_with_an_error_code(domain: Domain) -> None:
    in_user_mode(domain)
    frame = enter(domain, mask_events=True, error_code=0x14)
    assert frame == [0xCCCC, 0xBBBB, 0x14, USER_RIP, 0xE033, IF | 2, USER_SP, 0xE02B]
    assert domain.cpu.vcpu.rsp == STACK - 8 * 8
    assert masked(domain) == 1


def test_the_frame_tells_whether_events_were_masked(domain: Domain) -> None:
    domain.memory.write_u8(domain.cpu.info_gpa + 1, 1)
    frame = enter(domain, mask_events=False, error_code=None)
    assert frame[3] == 1 << 32 | 0xE030
    assert frame[4] == 2
    assert masked(domain) == 1


def test_the_handler_starts_with_clean_flags(domain: Domain) -> None:
    domain.cpu.vcpu.rflags = IF | TF | NT | IOPL | DF | 2
    frame = enter(domain, mask_events=False, error_code=None)
    assert frame[4] == IF | TF | NT | DF | 2
    assert domain.cpu.vcpu.rflags == IF | DF | 2


def test_no_handler_is_a_crash(domain: Domain) -> None:
    with pytest.raises(GuestCrash, match="no handler"):
        inject(domain.cpu, 13, 0)


@pytest.mark.parametrize("stack", [0x1000, 1 << 47, 0xFFFF810000002000])
def test_no_stack_is_a_crash(domain: Domain, stack: int) -> None:
    domain.cpu.vcpu.rsp = stack
    with pytest.raises(GuestCrash, match="stack"):
        enter(domain, mask_events=False, error_code=None)


def return_to(domain: Domain, *frame: int) -> bool:
    """Whether the iret detects an event loop."""
    cpu = domain.cpu
    cpu.vcpu.rsp = STACK
    cpu.write(STACK, struct.pack("<9Q", *frame))
    return iret(cpu.vcpu, cpu.tables, cpu.info_gpa)


def test_iret_to_user_mode(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    return_to(domain, 1, 2, 3, 0, USER_RIP, 0xE033, IF | IOPL | NT | DF, USER_SP, 0xE02B)
    assert not vcpu.kernel_mode
    assert vcpu.cr3 == vcpu.user_cr3
    assert (vcpu.rax, vcpu.r11, vcpu.rcx) == (1, 2, 3)
    assert (vcpu.rip, vcpu.rsp, vcpu.cs, vcpu.ss) == (USER_RIP, USER_SP, 0xE033, 0xE02B)
    assert vcpu.rflags == IF | NT | DF | 2
    assert masked(domain) == 0


def test_the_flags_of_a_frame_have_the_iopl_if_the_guest_wants_it(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    vcpu.architectural_iopl, vcpu.iopl = True, 2
    assert enter(domain, mask_events=False, error_code=None)[4] == IF | 2 << 12 | 2
    return_to(domain, 1, 2, 3, 0, HANDLER, 0xE030, IF | IOPL | 2, STACK, 0xE028)
    assert vcpu.iopl == 3
    assert vcpu.rflags == IF | 2
    vcpu.architectural_iopl = False
    return_to(domain, 1, 2, 3, 0, HANDLER, 0xE030, IF | 2, STACK, 0xE028)
    assert vcpu.iopl == 3


def test_iret_from_a_system_call(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    return_to(domain, 1, 2, 3, 1 << 8, USER_RIP, 0xE033, IF | 2, USER_SP, 0xE02B)
    assert (vcpu.rcx, vcpu.r11) == (USER_RIP, IF | 2)


def test_iret_to_the_kernel_with_events_masked(domain: Domain) -> None:
    vcpu = domain.cpu.vcpu
    return_to(domain, 1, 2, 3, 0, HANDLER, 0xE030, 2, STACK, 0xE028)
    assert vcpu.kernel_mode
    assert (vcpu.cs, vcpu.ss) == (0xE033, 0xE02B)
    # The CPU's own interrupts stay on: they are ours.
    assert vcpu.rflags == IF | 2
    assert masked(domain) == 1


def test_iret_never_leaves_ring_3(domain: Domain) -> None:
    return_to(domain, 0, 0, 0, 0, HANDLER, 0xFFFF0000E008, 2, STACK, 0xE010)
    assert domain.cpu.vcpu.cs & 3 == domain.cpu.vcpu.ss & 3 == 3


def test_a_bounce_and_an_iret_change_nothing(domain: Domain) -> None:
    in_user_mode(domain)
    vcpu = domain.cpu.vcpu
    enter(domain, mask_events=True, error_code=None)
    # As Linux does: rcx and r11 from the frame, and rax, r11, rcx, flags for iret.
    rcx, r11, *rest = struct.unpack("<7Q", domain.cpu.read(vcpu.rsp, 56))
    return_to(domain, 7, r11, rcx, 0, *rest)
    assert not vcpu.kernel_mode
    assert (vcpu.rip, vcpu.rsp, vcpu.rcx, vcpu.r11) == (USER_RIP, USER_SP, 0xCCCC, 0xBBBB)
    assert masked(domain) == 0


def test_only_its_own_events_are_an_event_loop(domain: Domain) -> None:
    """Sixteen irets to one place, with an upcall due at each: eventloop.py."""
    domain.memory.write_u8(domain.cpu.info_gpa, 1)

    def irets(*, own: bool) -> list[bool]:
        found = []
        for _ in range(16):
            if own:
                domain.cpu.vcpu.note_own_event()
            found.append(return_to(domain, 0, 0, 0, 0, HANDLER, 0xE030, IF | 2, STACK, 0xE028))
        return found

    assert irets(own=False) == [False] * 16
    assert irets(own=True) == [False] * 15 + [True]
    assert irets(own=False) == [False] * 16


def test_iret_without_a_frame_or_an_address_space_is_a_crash(domain: Domain) -> None:
    domain.cpu.vcpu.rsp = 0x1000
    with pytest.raises(GuestCrash, match="frame"):
        iret(domain.cpu.vcpu, domain.tables, domain.cpu.info_gpa)
    domain.cpu.vcpu.user_cr3 = 0
    with pytest.raises(GuestCrash, match="user address space"):
        return_to(domain, 0, 0, 0, 0, USER_RIP, 0xE033, IF, USER_SP, 0xE02B)


def top_of_stack(domain: Domain, words: int) -> tuple[int, ...]:
    return struct.unpack(f"<{words}Q", domain.cpu.read(domain.cpu.vcpu.rsp, words * 8))


def test_a_users_syscall_enters_the_syscall_callback(domain: Domain) -> None:
    domain.cpu.callbacks[CallbackType.SYSCALL] = (HANDLER, False)
    in_user_mode(domain)
    handle(domain.cpu, C["TRAP_SYSCALL"])
    assert domain.cpu.vcpu.rip == HANDLER
    assert top_of_stack(domain, 7)[2] == USER_RIP


@pytest.mark.parametrize(
    ("trap", "kind"),
    [("TRAP_SYSCALL32", CallbackType.SYSCALL32), ("TRAP_SYSENTER", CallbackType.SYSENTER)],
)
def test_a_system_call_of_32_bit_code_enters_its_callback(
    domain: Domain, trap: str, kind: CallbackType
) -> None:
    domain.cpu.set_callback(kind, HANDLER, True)
    in_user_mode(domain)
    handle(domain.cpu, C[trap])
    assert domain.cpu.vcpu.rip == HANDLER
    assert top_of_stack(domain, 7)[2] == USER_RIP
    assert masked(domain) == 1


@pytest.mark.parametrize(
    ("trap", "vector", "frame"),
    [
        # SYSCALL is two bytes long; nobody knows where SYSENTER was.
        ("TRAP_SYSCALL", 6, (USER_RIP - 2,)),
        ("TRAP_SYSCALL32", 6, (USER_RIP - 2,)),
        ("TRAP_SYSENTER", 13, (0, USER_RIP)),
    ],
)
def test_a_system_call_without_a_callback_faults(
    domain: Domain, trap: str, vector: int, frame: tuple[int, ...]
) -> None:
    domain.cpu.set_trap(vector, 0, HANDLER)
    in_user_mode(domain)
    handle(domain.cpu, C[trap])
    assert domain.cpu.vcpu.rip == HANDLER
    assert top_of_stack(domain, 4)[2 : 2 + len(frame)] == frame


def test_the_kernels_syscall_is_a_hypercall(domain: Domain) -> None:
    domain.cpu.vcpu.rax = 17
    handle(domain.cpu, C["TRAP_SYSCALL"])
    assert domain.cpu.vcpu.rax == 4 << 16 | 17
    domain.cpu.vcpu.rax = 99
    handle(domain.cpu, C["TRAP_SYSCALL"])
    assert domain.cpu.vcpu.rax == (1 << 64) - 38


@pytest.mark.parametrize(
    ("vector", "words"), [(0, 7), (1, 7), (3, 7), (8, 8), (11, 8), (12, 8), (17, 8), (19, 7)]
)
def test_exceptions_have_error_codes_where_the_cpu_pushes_them(
    domain: Domain, vector: int, words: int
) -> None:
    domain.cpu.trap_table[vector] = (0, HANDLER)
    handle(domain.cpu, vector)
    assert domain.cpu.vcpu.rsp == STACK - words * 8


def user_code(domain: Domain, code: bytes) -> None:
    """Enter user mode, with `code` at USER_RIP in an address space of its own."""
    in_user_mode(domain)
    tables = [domain.gpa(pfn) for pfn in (USER_L4_PFN, 40, 41, 42)]
    for level, (upper, lower) in enumerate(zip(tables, [*tables[1:], domain.gpa(43)], strict=True)):
        slot = USER_RIP >> 39 - 9 * level & 511
        domain.memory.write_u64(upper + slot * 8, lower | 7)
    domain.memory.write(domain.gpa(43), code)


@pytest.mark.parametrize(("dpl", "entered"), [(3, "the vector"), (0, "general protection")])
def test_a_users_software_interrupt_needs_the_right_level(
    domain: Domain, dpl: int, entered: str
) -> None:
    user_code(domain, b"\xcd\x80")
    domain.cpu.trap_table[0x80] = (dpl, HANDLER + 0x80)
    domain.cpu.trap_table[13] = (0, HANDLER + 13)
    handle(domain.cpu, 6)
    if entered == "the vector":
        assert domain.cpu.vcpu.rip == HANDLER + 0x80
        assert top_of_stack(domain, 7)[2] == USER_RIP + 2
    else:
        assert domain.cpu.vcpu.rip == HANDLER + 13
        assert top_of_stack(domain, 8)[2:4] == (0x80 << 3 | 2, USER_RIP)


@pytest.mark.parametrize("code", [b"\xfa", b"\xf4", b"\x0f\x20\xd8", b"\x0f\x30"])
def test_user_mode_does_nothing_privileged(domain: Domain, code: bytes) -> None:
    user_code(domain, code)
    domain.cpu.trap_table[13] = (0, HANDLER)
    handle(domain.cpu, 13)
    assert domain.cpu.vcpu.rip == HANDLER
    assert not domain.cpu.blocked


def test_port_io_of_user_mode_is_done_by_its_iopl(domain: Domain) -> None:
    user_code(domain, b"\xec")
    domain.cpu.vcpu.iopl = 3
    handle(domain.cpu, 13)
    assert domain.cpu.vcpu.rip == USER_RIP + 1
    assert domain.cpu.vcpu.rax & 0xFF == 0xFF


def test_user_modes_forced_cpuid_is_done(domain: Domain) -> None:
    user_code(domain, bytes.fromhex("0f0b78656e0fa2"))
    domain.cpu.vcpu.rax = 0x40000000
    handle(domain.cpu, 6)
    assert domain.cpu.vcpu.rip == USER_RIP + 7
    assert domain.cpu.vcpu.rbx == 0x566E6558
    assert not domain.cpu.vcpu.kernel_mode


def test_an_event_interrupt_is_ended_and_no_more(domain: Domain) -> None:
    handle(domain.cpu, C["STUB_EVENT"])
    assert domain.cpu.fd.get_msr(0x80B) == 0
    assert domain.cpu.vcpu.rip == 0x1111
