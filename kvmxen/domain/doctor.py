"""kvmxen doctor: reports what this host's KVM does with a guest, and what follows for the user."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvmxen.domain.initramfs import find_busybox, is_static
from kvmxen.errors import GuestCrash, KvmxenError
from kvmxen.kvm.access import DEVICE
from kvmxen.kvm.layout import MAX_VCPUS
from kvmxen.kvm.system import API_VERSION, Cap, System
from kvmxen.pv.features import Filter
from kvmxen.pv.machine import NEEDED_CAPS, Machine
from kvmxen.pv.probe import Probe
from kvmxen.pv.programs import Programs, look_at_programs
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.plan import plan
from kvmxen.pv.snippet import load_code

_TRAP_SYSCALL = constants()["TRAP_SYSCALL"]
# 1: syscall; jmp 1b
_SYSCALL_LOOP = bytes.fromhex("0f05ebfc")
_BATCHES, _BATCH = 5, 400
_SMALLEST = 32 << 20
# Exits of a Debian 6.1 kernel with one vCPU, from its first instruction through its init to its end
# (--stats): with --shim dispatch and with --shim exits.
EXITS_OF_A_BOOT, EXITS_WITHOUT_DISPATCHER = 1_500, 90_000

_OPTIONAL = {
    Cap.IOEVENTFD: "guest events reach backends without an exit to userspace",
    Cap.IRQFD: "backend events could reach guests without a system call; not used yet",
    Cap.XEN_HVM: "KVM could deliver Xen's event channels itself; not used yet",
}
_OWN_FEATURES = "guest programs see this CPU's own features, guest kernels those that work"
_CPUID_MEANS = {
    Filter.WHOLE: "a guest sees the features that kvmxen chooses",
    Filter.PART: f"{_OWN_FEATURES}; both see Xen's leaves",
    Filter.NONE: _OWN_FEATURES,
}


@dataclass(frozen=True)
class Finding:
    """A line of the report: the subject, the finding, and what follows from it, if anything."""

    what: str
    found: str
    means: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """`obstacle` is a sentence that says what to do, None if a PV guest can run."""

    findings: list[Finding]
    obstacle: str | None


def examine(device: Path = DEVICE) -> Diagnosis:
    """Look at `device` and at the host, running a few guest instructions (0.2 s)."""
    findings: list[Finding] = []
    obstacle = None
    try:
        findings.extend(_host())
        for finding in _device(device):
            findings.append(finding)
    except KvmxenError as error:
        # The device's errors refer to this report.
        obstacle = re.sub("; see 'kvmxen doctor'$", "", str(error))
    verdict = Finding("64-bit PV guests", "no" if obstacle else "run")
    return Diagnosis([*findings, verdict], obstacle)


def _host() -> Iterator[Finding]:
    available = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    mebibytes = int(available[1]) >> 10 if available else 0
    yield Finding("memory", f"{mebibytes:,} MiB free", "for the guests (--memory)")
    yield _busybox()


def _busybox() -> Finding:
    try:
        path = find_busybox()
        static = is_static(path.read_bytes())
    except (KvmxenError, OSError):
        return Finding("busybox", "none", "--shell needs it: install busybox-static")
    if not static:
        return Finding(
            "busybox", f"{path}, not static", "--shell needs it static: install busybox-static"
        )
    return Finding("busybox", str(path), "--shell works")


def _device(device: Path) -> Iterator[Finding]:
    system = System(device)
    try:
        yield Finding("device", str(device), "present, and you may use it")
        yield Finding("KVM API", str(API_VERSION))
        yield from _capabilities(system)
    finally:
        system.close()
    yield from _behaviour()


def _capabilities(system: System) -> Iterator[Finding]:
    lacking = [cap.name for cap in NEEDED_CAPS if not system.check_extension(cap)]
    yield Finding(
        "needed capabilities", f"lacks {', '.join(lacking)}" if lacking else "all present"
    )
    for cap, use in _OPTIONAL.items():
        yield Finding(f"KVM_CAP_{cap.name}", "yes" if system.check_extension(cap) else "no", use)
    most = min(system.check_extension(Cap.MAX_VCPUS), MAX_VCPUS)
    cpus = len(os.sched_getaffinity(0))
    yield Finding("vCPUs", f"at most {most}", f"this host has {cpus} CPUs")


def _behaviour() -> Iterator[Finding]:
    machine = Machine(
        plan(_SMALLEST, 1),
        ended=lambda _end: None,
        dispatcher=False,
    )
    try:
        yield from probed(machine.probe)
        try:
            yield from used_by_programs(look_at_programs(machine))
        except GuestCrash as crash:
            raise KvmxenError(f"this host's KVM cannot run ring 3 of a guest: {crash}") from None
        exit_ns = _exit_ns(machine)
    finally:
        machine.close()
    yield Finding(
        "speed",
        f"{1e9 / exit_ns:,.0f} exits/s",
        f"a Debian kernel makes about {EXITS_OF_A_BOOT:,} until its init, which take "
        f"{EXITS_OF_A_BOOT * exit_ns / 1e9:.2f} s; with --shim exits "
        f"{EXITS_WITHOUT_DISPATCHER:,}, {EXITS_WITHOUT_DISPATCHER * exit_ns / 1e9:.1f} s",
    )


def probed(probe: Probe) -> Iterator[Finding]:
    """The findings of the probe that each boot makes."""
    if probe.sees_host_stores:
        yield Finding("page tables", "by the hardware", "the CPU sees the host's updates at once")
    else:
        yield Finding(
            "page tables",
            "shadowed by KVM",
            "the gate repeats each update inside the guest, which is a little slower",
        )
    if probe.syscall_enters_ring0:
        yield Finding("SYSCALL", "enters ring 0", "as the CPU manuals say")
    else:
        yield Finding(
            "SYSCALL",
            "stays in ring 3",
            "a software KVM: the gate uses int3, and ring 0 of a guest may be interpreted",
        )
    yield Finding("CPUID", probe.features.filter.value, _CPUID_MEANS[probe.features.filter])
    if not probe.reaches_xen_m2p:
        yield Finding(
            "L4 slot 256",
            "out of reach of ring 3",
            "guests that ask where the machine-to-physical table is find it elsewhere; in others "
            "(Mini-OS, Unikraft) each read traps, 24,300 times for 32 MiB",
        )


def used_by_programs(programs: Programs) -> Iterator[Finding]:
    """The CPU features that a guest's programs can use or lack."""
    if programs.breakpoints:
        yield Finding("hardware breakpoints", "work", "debuggers in a guest can use them")
    else:
        yield Finding(
            "hardware breakpoints",
            "never trigger",
            "debuggers in a guest must do without: this host's KVM does not support them",
        )
    if programs.segments:
        yield Finding("segments", "kept", "32-bit programs and local descriptor tables work")
    else:
        yield Finding(
            "segments",
            "lost",
            "most 32-bit programs and all local descriptor tables fail in a guest: this host's KVM "
            "loses the segments that ring 3 loads",
        )


def _exit_ns(machine: Machine) -> float:
    """The ns that a SYSCALL of ring 3 takes, with an exit to us and back: the best batch's mean."""
    load_code(machine, _SYSCALL_LOOP)
    vcpu = machine.cpus[0].vcpu
    best = float("inf")
    try:
        for _ in range(_BATCHES):
            start = time.perf_counter_ns()
            taken = sum(vcpu.run() == _TRAP_SYSCALL for _ in range(_BATCH))
            if not taken:
                raise GuestCrash("SYSCALL does not come out")
            best = min(best, (time.perf_counter_ns() - start) / taken)
    except GuestCrash as crash:
        raise KvmxenError(f"this host's KVM cannot run ring 3 through the shim: {crash}") from None
    return best
