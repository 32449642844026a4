"""The loop of a PV guest's vCPU: run it, and handle the trap that ended the run."""

from __future__ import annotations

from functools import partial

from kvmxen.errors import GuestCrash
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.exceptions import handle, inject
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.start import enter_ring0
from kvmxen.pv.trace import Trace
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.xen import CallbackType

_C = constants()
_INTERRUPTED = _C["INTERRUPTED"]
_VECTOR_EVENT = _C["VECTOR_EVENT"]


def run(cpu: Cpu, trace: Trace | None = None) -> None:
    """Run `cpu` in this thread until its machine stops; `trace` sees its traps and hypercalls."""
    machine = cpu.machine
    if trace:
        cpu.on_hypercall = partial(trace.hypercall, cpu)
    try:
        while machine.may_run(cpu):
            while not cpu.look_up:
                trap = _step(cpu)
                if trap != _INTERRUPTED:
                    _take(cpu, trap, trace)
            cpu.look_up = False
    except GuestCrash as crash:
        machine.crash(str(crash), cpu)
    except BaseException as error:
        machine.fail(error)


def _step(cpu: Cpu) -> int:
    """Let the vCPU do what is pending, then run or sleep; returns the trap that ended that."""
    vcpu = cpu.vcpu
    if not vcpu.entered:
        vcpu.looked()
        if cpu.deferred:
            cpu.run_deferred()
        if cpu.timer.dirty:
            cpu.timer.program()
        if vcpu.in_dispatcher:
            # The dispatcher itself checks for events before it returns to the guest.
            return vcpu.run()
        if cpu.blocked and not cpu.wake():
            return vcpu.halt()
        if cpu.nmi_pending and x86.TRAP_NMI in cpu.trap_table:
            cpu.nmi_pending = False
            inject(cpu, x86.TRAP_NMI)
        withheld, cpu.upcall_withheld = cpu.upcall_withheld, False
        if vcpu.upcall_ready and not withheld:
            cpu.bounce(cpu.callbacks.get(CallbackType.EVENT, (0, True))[0], True, None)
    elif vcpu.attention:
        # An event came while a signal had stopped KVM_RUN: KVM must interrupt the guest.
        vcpu.attention = False
        cpu.machine.vm.signal_msi(cpu.index, _VECTOR_EVENT)
    return vcpu.halt() if cpu.blocked else vcpu.run()


def _take(cpu: Cpu, trap: int, trace: Trace | None) -> None:
    vcpu = cpu.vcpu
    if vcpu.in_ring3:
        vcpu.in_ring3 = False
        enter_ring0(cpu.fd)
    if vcpu.waiting:
        # The guest waits for an event: the dispatcher left the wait to the host.
        vcpu.waiting = False
        cpu.block()
    if trace:
        trace.trap(cpu, trap)
    handle(cpu, trap)
