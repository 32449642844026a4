"""A running machine from outside: pause, resume, stop."""

from __future__ import annotations

import fcntl
import time
from array import array
from collections.abc import Callable, Iterator

import pytest

from kvmxen.kvm.ioctl import ior, iow
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.pv.exceptions import handle
from kvmxen.pv.machine import End, Machine
from kvmxen.pv.run import run
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.plan import plan
from kvmxen.pv.snippet import load_code
from kvmxen.xen.abi import x86
from tests.e2e.domain import PATIENCE, SLOWNESS

C = constants()
# The single-step bits of rflags and DR6.
TF, BS = 0x100, 0x4000
# struct kvm_regs: 18 registers of 64 bits, of which rflags is the last.
KVM_GET_REGS, KVM_SET_REGS = ior(0x81, 18 * 8), iow(0x82, 18 * 8)
# 1: syscall; jmp 1b - and: 1: jmp 1b
HYPERCALLS = bytes.fromhex("0f05ebfc")
SPIN = bytes.fromhex("ebfe")
# A frame that the code and its page tables leave free.
FREE_PFN = 16


@pytest.fixture
def ends() -> list[End]:
    return []


@pytest.fixture(params=[True, False], ids=["dispatch", "exits"])
def machine(kvm: None, ends: list[End], request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(
        plan(32 << 20, 2),
        ended=ends.append,
        dispatcher=request.param,
    )
    yield made
    made.close()


def wait_until(machine: Machine, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE * SLOWNESS
    while not condition():
        assert not machine.stopping, f"the guest crashed: {machine.crash_reason}"
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_paused_guest_does_nothing_and_then_goes_on(machine: Machine) -> None:
    load_code(machine, HYPERCALLS)
    vcpu = machine.cpus[0].vcpu

    def calls() -> int:
        return sum(vcpu.hypercalls.values())

    machine.start(run)
    wait_until(machine, lambda: calls() > 100)
    for _ in range(20):
        machine.pause()
        assert not vcpu.in_guest
        before = calls()
        time.sleep(0.02)
        assert calls() == before
        machine.resume()
        wait_until(machine, lambda before=before: calls() > before)  # type: ignore[misc]


def test_a_guest_that_never_comes_out_is_paused_and_stopped(
    machine: Machine, ends: list[End]
) -> None:
    load_code(machine, SPIN)
    vcpu = machine.cpus[0].vcpu
    machine.start(run)
    wait_until(machine, lambda: vcpu.in_guest)
    machine.pause()
    assert not vcpu.in_guest
    machine.resume()
    wait_until(machine, lambda: vcpu.in_guest)
    machine.stop()
    machine.join()
    assert not vcpu.in_guest
    assert ends == []


def test_the_states_of_a_vcpu(machine: Machine) -> None:
    """Every arrow in the head of vcpu.pyx, taken by hand in this thread."""
    load_code(machine, HYPERCALLS)
    vcpu = machine.cpus[0].vcpu
    vcpu.attention = False
    assert vcpu.state == "host"
    assert vcpu.run() == C["TRAP_SYSCALL"]
    assert vcpu.state == "host"
    vcpu.invlpg(vcpu.rip)
    vcpu.flush()
    assert vcpu.state == "host"
    vcpu.interrupt()
    assert vcpu.run() == C["INTERRUPTED"]
    assert vcpu.state == "stopped"
    assert vcpu.entered
    with pytest.raises(RuntimeError, match="cannot go from stopped to at work"):
        vcpu.step_in_ring0()
    vcpu.interrupt()
    assert vcpu.run() == C["INTERRUPTED"]
    assert vcpu.run() == C["TRAP_SYSCALL"]
    vcpu.interrupt()
    assert vcpu.halt() == C["INTERRUPTED"]
    assert vcpu.state == "stopped"
    machine.vm.signal_msi(0, C["VECTOR_EVENT"])
    assert vcpu.halt() == C["STUB_EVENT"]
    assert vcpu.state == "host"


def test_another_thread_sees_the_states(machine: Machine) -> None:
    load_code(machine, SPIN)
    vcpu = machine.cpus[0].vcpu
    machine.start(run)
    wait_until(machine, lambda: vcpu.state == "guest")
    machine.pause()
    assert vcpu.state == "stopped"
    machine.resume()
    wait_until(machine, lambda: vcpu.state == "guest")
    assert vcpu.in_guest


def test_a_paused_machine_stops(machine: Machine) -> None:
    load_code(machine, HYPERCALLS)
    machine.start(run)
    machine.pause()
    machine.stop()
    machine.join()


def test_the_operations_of_the_gate(machine: Machine) -> None:
    load_code(machine, HYPERCALLS)
    cpu, memory = machine.cpus[0], machine.memory
    vcpu, fd = cpu.vcpu, cpu.fd
    vcpu.attention = False
    assert vcpu.run() == C["TRAP_SYSCALL"]
    vcpu.set_task_switched(True)
    vcpu.flush()
    assert fd.get_sregs().cr0 & x86.CR0_TS
    # The kernel's tables and GS base, and those of its user code.
    kernels, users = 0x1000, 0x2000
    fd.set_msr(x86.MSR_GS_BASE, kernels)
    fd.set_msr(x86.MSR_KERNEL_GS_BASE, users)
    vcpu.user_cr3 = machine.layout.mfn(FREE_PFN) << PAGE_SHIFT
    memory.write(vcpu.user_cr3, memory.read(vcpu.kernel_cr3, PAGE_SIZE))
    for cr3, base, other in (
        (vcpu.user_cr3, users, kernels),
        (vcpu.kernel_cr3, kernels, users),
    ):
        vcpu.toggle_mode()
        vcpu.flush()
        assert fd.get_sregs().cr3 == cr3
        assert fd.get_msr(x86.MSR_GS_BASE) == base
        assert fd.get_msr(x86.MSR_KERNEL_GS_BASE) == other
    machine.vm.signal_msi(0, C["VECTOR_EVENT"])
    assert vcpu.halt() == C["STUB_EVENT"]
    # The vCPU returns to the guest as if nothing had happened.
    rip = vcpu.rip
    assert vcpu.run() == C["TRAP_SYSCALL"]
    assert vcpu.rip == rip


def test_a_debug_exception_in_the_shim_is_dropped(machine: Machine) -> None:
    """A debug exception that user code holds back by `mov ss` may arrive at any entry to ring 0
    (CVE-2018-8897)."""
    load_code(machine, HYPERCALLS)
    cpu = machine.cpus[0]
    cpu.vcpu.attention = False
    assert cpu.vcpu.run() == C["TRAP_SYSCALL"]
    rip = cpu.vcpu.rip
    # Ring 0 has an operation to do before it returns, and is stopped there.
    cpu.vcpu.invlpg(rip)
    cpu.vcpu.interrupt()
    assert cpu.vcpu.run() == C["INTERRUPTED"]
    registers = array("Q", bytes(18 * 8))
    fcntl.ioctl(cpu.fd.fd, KVM_GET_REGS, registers)
    registers[-1] |= TF
    fcntl.ioctl(cpu.fd.fd, KVM_SET_REGS, registers)
    assert cpu.vcpu.run() == C["TRAP_LOST_DEBUG"]
    handle(cpu, C["TRAP_LOST_DEBUG"])
    assert not cpu.fd.get_debugregs().dr6 & BS
    assert not cpu.debug_register(6) & BS
    assert cpu.vcpu.run() == C["TRAP_SYSCALL"]
    assert cpu.vcpu.rip == rip
