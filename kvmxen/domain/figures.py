"""The figures of a run: counts, times, sizes."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping

from kvmxen.pv.machine import Machine
from kvmxen.pv.trace import hypercall_name, trap_name


def figures(
    machine: Machine,
    devices: Mapping[str, Mapping[str, int]],
    *,
    build_ns: int,
    run_ns: int,
) -> dict[str, object]:
    """The figures of `machine` and its `devices`: counts, times in ns, memory in KiB."""
    traps: Counter[str] = Counter()
    hypercalls: Counter[str] = Counter()
    dispatched: Counter[str] = Counter()
    for vcpu in (cpu.vcpu for cpu in machine.cpus):
        traps.update(_named(trap_name, vcpu.traps))
        hypercalls.update(_named(hypercall_name, vcpu.hypercalls))
        dispatched.update(_named(trap_name, vcpu.dispatched_traps))
        dispatched.update(_named(hypercall_name, vcpu.dispatched_hypercalls))
    delivered = machine.events.delivered + sum(cpu.vcpu.delivered for cpu in machine.cpus)
    sent = machine.events.sent + dispatched["event_channel_op"]
    guest = sum(cpu.vcpu.guest_ns for cpu in machine.cpus)
    return {
        "exits": dict(traps.most_common()),
        "exits_total": sum(cpu.vcpu.exits for cpu in machine.cpus),
        "hypercalls": dict(hypercalls.most_common()),
        "dispatched_in_guest": dict(dispatched.most_common()),
        "events": {"sent": sent, "delivered": delivered},
        "grants": {
            "version": machine.grants.version,
            "frames": machine.grants.nr_frames,
            "pinned": len(machine.grants.pinned()),
            "mapped_by_guest": len(machine.maptrack),
        },
        **{
            f"vcpu/{cpu.index}": {"cpu_ns": cpu.cpu_ns, "guest_ns": cpu.vcpu.guest_ns}
            for cpu in machine.cpus
            if cpu.initialised
        },
        **devices,
        "build_ns": build_ns,
        "run_ns": run_ns,
        "guest_ns": guest,
        "process_cpu_ns": time.process_time_ns(),
        "max_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def _named(name: Callable[[int], str], counts: Mapping[int, int]) -> dict[str, int]:
    return {name(number): count for number, count in counts.items()}
