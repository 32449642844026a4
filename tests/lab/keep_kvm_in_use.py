"""Keeps a virtual machine open as long as it runs.

Linux patches its own code when the first virtual machine starts and the last one ends, and when
the last vCPU goes whose LAPIC software has disabled (static keys: preempt_notifier_inc in
virt/kvm/kvm_main.c, apic_sw_disabled in arch/x86/kvm/lapic.c). QEMU's multi-threaded emulation
sometimes goes on with code that it translated in the middle of the patching, with an int3 that is
long gone, and the lab hangs.
"""

from __future__ import annotations

import signal

from kvmxen.kvm.system import Cap, System
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.kvm.vm import Vm


def main() -> None:
    system = System()
    vm = Vm(system)
    # This gives a vCPU a LAPIC, which stays disabled by software until the guest enables it.
    vm.enable_cap(Cap.SPLIT_IRQCHIP, 0)
    vcpu = VcpuFd(system, vm, 0)
    signal.pause()
    vcpu.close()
    vm.close()


if __name__ == "__main__":
    main()
