"""CPUID recorded on machines of both vendors, for tests that need no such machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kvmxen.kvm.structs import CpuidEntry

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recorded:
    """`kvm`: KVM_GET_SUPPORTED_CPUID; `ring3`, `xcr0`: what ring 3 of a guest sees."""

    kvm: list[CpuidEntry]
    ring3: list[CpuidEntry]
    xcr0: int


def recorded(name: str) -> Recorded:
    """The leaves of "intel-software-kvm" or "amd-software-kvm"."""
    found = json.loads((FOLDER / f"{name}.json").read_text())
    return Recorded(_entries(found["kvm"]), _entries(found["ring3"]), int(found["xcr0"], 16))


def _entries(rows: list[list[str]]) -> list[CpuidEntry]:
    out = []
    for row in rows:
        function, index, *registers = (int(word, 16) for word in row)
        out.append(CpuidEntry(function, index, 0, *registers))
    return out
