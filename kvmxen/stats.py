"""--stats: what a run cost, as a table or as JSON, on stderr or in a file."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from kvmxen.config import Config
from kvmxen.errors import KvmxenError
from kvmxen.streams import say, tell
from kvmxen.trace import hypercall_name, trap_name

if TYPE_CHECKING:
    from kvmxen.machine import Machine


class Stats:
    """Reports the figures of a domain's runs as `config` asks for it.

    Within its context it has the file open that `config` names, which is emptied; KvmxenError if
    it cannot be opened.
    """

    def __init__(self, config: Config) -> None:
        self._kind = config.stats
        self._path = config.stats_file
        self._file: TextIO | None = None

    def __enter__(self) -> Stats:
        if self._path is not None:
            try:
                self._file = self._path.open("w")
            except OSError as error:
                raise KvmxenError(
                    f"the file {self._path} for --stats cannot be opened: {error.strerror}; "
                    "name another"
                ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def report(self, figures: dict[str, object]) -> None:
        """Write `figures` where that was asked for: as JSON in one line."""
        if self._kind == "text":
            tell(_table(figures))
        elif self._kind == "json":
            import json

            line = json.dumps(figures)
            if self._file is None:
                tell(line)
                return
            try:
                self._file.write(f"{line}\n")
                self._file.flush()
            except OSError as error:
                say(f"the file {self._path} for --stats cannot be written: {error.strerror}")


def figures(
    machine: Machine,
    devices: Mapping[str, Mapping[str, int]],
    *,
    build_ns: int,
    run_ns: int,
) -> dict[str, object]:
    """What `machine` and its `devices` did. Counts, times in ns, memory in KiB."""
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
        **devices,
        "build_ns": build_ns,
        "run_ns": run_ns,
        "guest_ns": guest,
        "process_cpu_ns": time.process_time_ns(),
        "max_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def _named(name: Callable[[int], str], counts: Mapping[int, int]) -> dict[str, int]:
    return {name(number): count for number, count in counts.items()}


def _table(figures: dict[str, object]) -> str:
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"  {key:32} {count:>12,}" for key, count in value.items()]
        elif isinstance(value, int) and name.endswith("_ns"):
            lines.append(f"{name.removesuffix('_ns'):34} {value / 1e9:>12.3f} s")
        elif isinstance(value, int):
            lines.append(f"{name:34} {value:>12,}")
    return "\n".join(lines)
