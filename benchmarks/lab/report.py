"""The tables of docs/performance.md that come from the lab's counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.lab.devices import REQUESTS
from benchmarks.lab.jobs import ROUNDS
from benchmarks.page import table

Results = dict[str, dict[str, Any]]

# The jobs of each table's columns, with their headings.
KVMXEN = {"kvmxen": "kvmxen", "exits": "kvmxen, `--shim exits`"}
PEERS = {
    "pv-shim": "QEMU + pv-shim",
    "direct": "QEMU, no Xen",
    "microvm": "QEMU microvm, no Xen",
}
FIRST = {"first": "kvmxen, first boot", "bzimage": "QEMU, no Xen, bzImage"}
OPERATIONS = {
    "system_call": "system call (`getppid`)",
    "page_fault": "page fault",
    "fork": "fork, exit, wait",
    "fork_exec": "fork, exec, exit, wait",
    "context_switch": "context switch (pipe)",
}
OWN = {
    "null_hypercall": "null hypercall (`xen_version`)",
    "update_va_mapping": "`update_va_mapping` of a live entry",
    "event_to_self": "event to itself",
}
OWN_JOB = "own"
STAGED = {"staged": "kvmxen"}
DEVICES = {"kvmxen-devices": "kvmxen", "pv-shim-devices": "QEMU + pv-shim"}
# KVM_EXIT_* (Linux's include/uapi/linux/kvm.h).
REASONS = {"2": "port I/O", "6": "MMIO", "7": "interrupt window", "10": "signal", "34": "Xen"}


def exits(counts: dict[str, int]) -> int:
    """The exits to userspace in `counts`, for whatever reason."""
    return sum(count for reason, count in counts.items() if reason != "all")


def instructions(boot: dict[str, Any]) -> int:
    """The instructions of a boot up to its init; the clock jumped while the CPU was idle."""
    return int(boot["ns"] - boot["idle_ns"])


def boot(results: Results) -> str:
    """Boots to the init, in instructions and exits, for every monitor."""
    jobs = KVMXEN | PEERS | FIRST
    boots = {name: results[name]["boot"] for name in jobs}
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("**10^9 instructions to init**", lambda b: f"{instructions(b) / 1e9:.2f}"),
        ("**exits to userspace**", lambda b: f"{exits(b['exits']):,}"),
        ("exits of the VM, the kernel's own too", lambda b: f"{b['exits']['all']:,}"),
    ]
    cells = [[words, *(show(boots[name]) for name in jobs)] for words, show in rows]
    return table(["Debian 6.1, 1 vCPU, 512 MiB", *jobs.values()], cells)


def operations(results: Results) -> str:
    """The costs of a guest's operations: instructions, and exits to userspace in brackets."""
    jobs = KVMXEN | PEERS
    rows = [
        [words, *(_operation(results[job]["operations"][name]) for job in jobs)]
        for name, words in OPERATIONS.items()
    ]
    for name, words in OWN.items():
        own = _operation(results[OWN_JOB]["operations"][name])
        rows.append([words, own, *["-"] * (len(jobs) - 1)])
    return table(["instructions (exits)", *jobs.values()], rows)


def _operation(operation: dict[str, Any]) -> str:
    rounds = operation.get("rounds")
    each = operation["ns"] / rounds if rounds else operation["ns"]
    return f"{each:,.0f} ({exits(operation['exits']) / (rounds or ROUNDS):.2f})"


def stages(result: dict[str, Any]) -> dict[str, float]:
    """The millions of instructions of each part of kvmxen's boot up to the guest's end, in
    order."""
    ends = result["stats"]["stages_ns"]
    times = [0, *ends.values()]
    parts = {
        "interpreter and imports": times[1],
        "kernel": times[2] - times[1],
        "VM and probe": times[3] - times[2],
        "domain building": times[4] - times[3],
        "guest and KVM": result["stats"]["guest_ns"],
        "exits, in kvmxen": result["stats"]["run_ns"] - result["stats"]["guest_ns"],
    }
    return {name: count / 1e6 for name, count in parts.items()}


def breakdown(results: Results) -> str:
    """The parts of kvmxen's boot, in millions of instructions."""
    columns = [stages(results[job]) for job in STAGED]
    rows = [[name, *(f"{column[name]:,.0f}" for column in columns)] for name in columns[0]]
    rows.append(["**all**", *(f"{sum(column.values()):,.0f}" for column in columns)])
    return table(["10^6 instructions", *STAGED.values()], rows)


def reasons(results: Results) -> str:
    """The causes of kvmxen's exits: the ten most frequent traps and hypercalls that exited."""
    stats = [results[job]["stats"] for job in STAGED]
    rows = []
    for kind, prefix in {"exits": "", "hypercalls": "hypercall "}.items():
        names = _most([s[kind] for s in stats])
        rows += [[f"{prefix}`{n}`", *(f"{s[kind].get(n, 0):,}" for s in stats)] for n in names]
    return table(["a boot", *STAGED.values()], rows)


def _most(counts: Sequence[dict[str, int]]) -> list[str]:
    names = {name for column in counts for name in column}
    return sorted(names, key=lambda name: -max(c.get(name, 0) for c in counts))[:10]


def request(result: dict[str, Any], name: str) -> tuple[float, float, float]:
    """A request's instructions, exits to userspace and exits of the VM, less those of an idle
    guest."""
    taken, nothing = (result["operations"][each] for each in (name, "nothing"))
    counts = (
        (operation["instructions"], exits(operation["exits"]), operation["exits"]["all"])
        for operation in (taken, nothing)
    )
    each = [(some - none) / taken["rounds"] for some, none in zip(*counts, strict=True)]
    return each[0], each[1], each[2]


def devices(results: Results) -> str:
    """The costs of a guest's requests to a disk and a network interface."""
    rows = []
    for name, words in REQUESTS.items():
        columns = [request(results[job], name) for job in DEVICES]
        instructions, out, every = zip(*columns, strict=True)
        shown = [f"{count:,.0f}" for count in instructions]
        shown += [f"{instructions[0] / instructions[1]:.2f}"]
        # A result slightly below that of an idle guest counts as nothing.
        shown += [" / ".join(f"{max(count, 0):.2f}" for count in counts) for counts in (out, every)]
        rows.append([words, *shown])
    heads = [*(f"{head}, instructions" for head in DEVICES.values()), "ratio"]
    return table(["a request", *heads, "exits to userspace", "exits of the VM"], rows)


SECTIONS: dict[str, Callable[[Results], str]] = {
    "lab boot": boot,
    "lab operations": operations,
    "lab breakdown": breakdown,
    "lab reasons": reasons,
    "lab devices": devices,
}
