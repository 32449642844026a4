"""Keeps a virtual machine open for as long as it runs.

Linux patches its own code when the first virtual machine comes and the last one goes, and when no
vCPU is left whose LAPIC is disabled by software (static keys: preempt_notifier_inc in
virt/kvm/kvm_main.c, apic_sw_disabled in arch/x86/kvm/lapic.c). QEMU's multi-threaded emulation now
and then goes on with what it translated in the middle of that, an int3 that is long gone, and the
lab hangs.
"""

from __future__ import annotations

import signal

from kvmxen.kvm.system import Cap, System
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.kvm.vm import Vm


def main() -> None:
    system = System()
    vm = Vm(system)
    # With it a vCPU has a LAPIC, which is disabled by software until the guest says otherwise.
    vm.enable_cap(Cap.SPLIT_IRQCHIP, 0)
    vcpu = VcpuFd(system, vm, 0)
    signal.pause()
    vcpu.close()
    vm.close()


if __name__ == "__main__":
    main()
