"""A test's needs of its machine: the markers, and the checks, which try things out."""

from __future__ import annotations

import functools
import os

from kvmxen.kvm.system import Cap, System
from kvmxen.pv.machine import Machine
from kvmxen.pv.programs import look_at_programs
from kvmxen.pv.shim.plan import plan

# Each is a pytest marker; a marked test is skipped if the machine lacks it.
NEEDS = {
    "needs_ring0": "a /dev/kvm in which SYSCALL enters ring 0",
    "needs_kvm_xen": "a /dev/kvm with KVM_XEN (CONFIG_KVM_XEN)",
    "needs_breakpoints": "a KVM whose guests' hardware breakpoints fire",
    "needs_segments": "a KVM whose ring 3 has and keeps the segments that it loads",
}


def has_kvm() -> bool:
    """Whether a guest can run here."""
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


@functools.cache
def found() -> frozenset[str]:
    """The NEEDS that this machine has."""
    return frozenset(name for name, has in _probe().items() if has) if has_kvm() else frozenset()


def _probe() -> dict[str, bool]:
    system = System()
    try:
        kvm_xen = bool(system.check_extension(Cap.XEN_HVM))
    finally:
        system.close()
    machine = Machine(
        plan(32 << 20, 1),
        ended=lambda _end: None,
        dispatcher=False,
    )
    try:
        programs = look_at_programs(machine)
        return {
            "needs_ring0": machine.probe.syscall_enters_ring0,
            "needs_kvm_xen": kvm_xen,
            "needs_breakpoints": programs.breakpoints,
            "needs_segments": programs.segments,
        }
    finally:
        machine.close()
