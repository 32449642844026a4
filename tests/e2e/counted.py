"""Boots a guest, and after its end compares the counts of page-table references with the
tables: python -m tests.e2e.counted OPTIONS of kvmxen boot. Exits with the boot's status.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from unittest.mock import patch

from kvmxen.cli.main import main
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.pv.machine import Machine
from kvmxen.xen.abi import x86, xen

_XEN_SLOTS = range(xen.XEN_FIRST_SLOT, xen.XEN_FIRST_SLOT + xen.XEN_SLOTS)
# pv/shim/types.h: a count for each level, and the level of a pin.
_SHIFTS = {1: 0, 2: 16, 3: 32, 4: 48}
_COUNTS = {1: 0xFFFF, 2: 0xFFFF, 3: 0xFFFF, 4: 0xFF}
_PIN_SHIFT = 56


def _words(machine: Machine, gpa: int, size: int) -> array[int]:
    return array("Q", machine.memory.read(gpa, size))


def types(machine: Machine) -> dict[int, int]:
    """The counted type of every frame that has one."""
    found: dict[int, int] = {}
    for extent in machine.layout.ram:
        words = _words(machine, machine.layout.types_gpa + extent.mfn * 8, extent.frames * 8)
        found |= {mfn: word for mfn, word in enumerate(words, extent.mfn) if word}
    return found


def expected(machine: Machine, pins: dict[int, int]) -> dict[int, int]:
    """The counts required if the frames `pins` are pinned, each at its level: the references of
    the base pointers and of all tables."""
    bases = [base for cpu in machine.cpus for base in (cpu.vcpu.kernel_cr3, cpu.vcpu.user_cr3)]
    counts = Counter((base >> PAGE_SHIFT, 4) for base in bases if base)
    seen = {*counts, *pins.items()}
    todo = [*seen]
    while todo:
        mfn, level = todo.pop()
        if level == 1:
            continue
        for slot, entry in enumerate(_words(machine, mfn << PAGE_SHIFT, PAGE_SIZE)):
            if not entry & x86.PTE_PRESENT or (level == 4 and slot in _XEN_SLOTS):
                continue
            below = (entry & x86.PTE_FRAME) >> PAGE_SHIFT, level - 1
            counts[below] += 1
            if below not in seen:
                seen.add(below)
                todo.append(below)
    found: Counter[int] = Counter()
    for (mfn, level), count in counts.items():
        found[mfn] += min(count, _COUNTS[level]) << _SHIFTS[level]
    for mfn, level in pins.items():
        found[mfn] += 1 << _PIN_SHIFT + level - 1
    return dict(found)


def check(machine: Machine) -> None:
    """Print the number of tables; raise AssertionError if one is counted wrongly."""
    counted = types(machine)
    pins = {mfn: (word >> _PIN_SHIFT).bit_length() for mfn, word in counted.items()}
    right = expected(machine, {mfn: level for mfn, level in pins.items() if level})
    wrong = [
        f"frame {mfn:#x}: {counted.get(mfn, 0):#x} is counted, not {right.get(mfn, 0):#x}"
        for mfn in sorted(counted.keys() | right.keys())
        if counted.get(mfn) != right.get(mfn)
    ]
    assert not wrong, "\n".join(wrong[:20])
    print(f"{len(counted)} tables are counted rightly", flush=True)


_close = Machine.close


def _checked_close(machine: Machine) -> None:
    machine.stop()
    machine.join()
    check(machine)
    _close(machine)


if __name__ == "__main__":
    with patch.object(Machine, "close", _checked_close):
        sys.exit(main())
