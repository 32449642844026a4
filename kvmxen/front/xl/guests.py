"""The running domains, as xl tells of them."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmxen.config.sizes import host_memory
from kvmxen.domain.description import Description
from kvmxen.domain.remote import RemoteDomain
from kvmxen.domain.rundir import name_of, running, runtime_root
from kvmxen.domain.state import State
from kvmxen.errors import KvmxenError, UsageError

DOM0 = "Domain-0"
# How long, in s, a domain may take to answer where many are listed.
_PATIENCE = 5.0
_STATES = {State.RUNNING: "r-----", State.PAUSED: "--p---", State.PRESERVED: "---s--"}


@dataclass(frozen=True)
class Guest:
    """A domain; `told` is None if it is being built or taken down. `cpus` are the times in s of
    the vCPUs that are up, by their numbers."""

    name: str
    id: int
    began: float
    told: Description | None
    cpus: dict[int, float]

    @property
    def memory(self) -> int:
        """In MiB."""
        return self.told.memory >> 20 if self.told else 0

    @property
    def state(self) -> str:
        """xl's six letters."""
        return _STATES.get(self.told.state, "------") if self.told else "------"

    @property
    def uuid(self) -> str:
        """As text."""
        return str(self.told.uuid) if self.told else "-"


def guests() -> list[Guest]:
    """All that run, by their ids."""
    found = sorted(running(runtime_root()), key=lambda one: one.id)
    return [_guest(one.name, one.id, one.began) for one in found]


def guest(word: str) -> Guest:
    """The domain of that name, id or UUID; raises KvmxenError if there is none."""
    name = _name(word)
    for one in running(runtime_root()):
        if one.name == name:
            return _guest(one.name, one.id, one.began)
    raise _missing(word)


def remote(word: str) -> RemoteDomain:
    """The same, to be changed."""
    name = _name(word)
    if all(one.name != name for one in running(runtime_root())):
        raise _missing(word)
    return RemoteDomain(name)


def host_figures() -> dict[str, Any]:
    """This host as the Domain-0 that it stands for: its uptime and its CPUs' time in s, and the
    memory in MiB that no domain has."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = map(int, ticks)
    return {
        "time": (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"),
        "began": time.time() - float(Path("/proc/uptime").read_text().split()[0]),
        "cpus": os.cpu_count() or 1,
        "memory": host_memory() >> 20,
        "free": _free_memory(),
    }


def _free_memory() -> int:
    match = re.search(r"^MemAvailable:\s+([0-9]+) kB$", Path("/proc/meminfo").read_text(), re.M)
    return int(match[1]) >> 10 if match else 0


def _name(word: str) -> str:
    if word in (DOM0, "0"):
        raise UsageError(f"{DOM0} is this host itself: name a guest")
    return name_of(runtime_root(), word)


def _missing(word: str) -> KvmxenError:
    return KvmxenError(f"{word} is an invalid domain identifier: no such domain runs (see xl list)")


def _guest(name: str, number: int, began: float) -> Guest:
    try:
        domain = RemoteDomain(name, patience=_PATIENCE)
        stats: dict[str, Any] = domain.stats()
        times = {
            int(key.removeprefix("vcpu/")): figures["cpu_ns"] / 1e9
            for key, figures in stats.items()
            if key.startswith("vcpu/")
        }
        return Guest(name, number, began, domain.describe(), times)
    except KvmxenError:
        return Guest(name, number, began, None, {})
