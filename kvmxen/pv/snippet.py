"""Loads a few instructions as the guest: for measurements, which need no kernel."""

from __future__ import annotations

from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE
from kvmxen.loader.pagetables import InitialPageTables, Mapping
from kvmxen.pv.machine import Machine

_CODE_VA = 0x10000000000
_FIRST_PFN = 4


def load_code(machine: Machine, code: bytes, argument: int = 0) -> None:
    """Make vCPU 0 start at `code` (at most a page), in ring 3, with a stack of one page.

    %rsi is `argument`. The code and its page tables take the first frames, which must be zero.
    """
    memory, layout = machine.memory, machine.layout
    InitialPageTables(memory, layout).map(Mapping(_CODE_VA, _FIRST_PFN, 2), 0)
    memory.write(layout.mfn(_FIRST_PFN) << PAGE_SHIFT, code)
    machine.enter_at(
        entry=_CODE_VA,
        stack=_CODE_VA + 2 * PAGE_SIZE,
        start_info=argument,
        cr3=layout.mfn(0) << PAGE_SHIFT,
    )
    # The vCPU may run without its thread, and still have the tables of an earlier trial loaded.
    machine.cpus[0].run_deferred()
    machine.cpus[0].vcpu.flush_tlb()
