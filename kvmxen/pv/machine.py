"""A domain's machine: it owns the VM, its memory, vCPUs, events, grants; start, pause, stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum
from uuid import UUID, uuid4

from kvmxen.errors import KvmxenError
from kvmxen.kvm.ioctl import KvmError
from kvmxen.kvm.layout import HOLE_END, HOLE_START, PAGE_SHIFT, XENHEAP_FRAMES, Layout
from kvmxen.kvm.memory import GuestMemory
from kvmxen.kvm.structs import CpuidEntry
from kvmxen.kvm.system import Cap, System
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.kvm.vm import Vm
from kvmxen.pv.balloon import Balloon
from kvmxen.pv.cpu import KICK_SIGNAL, Cpu
from kvmxen.pv.paging import PageTables
from kvmxen.pv.probe import Probe, probe
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.image import Placement, ShimImage
from kvmxen.vcpu import install_kick
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.shared_info import SharedInfo
from kvmxen.xen.abi.xen import (
    LEGACY_MAX_VCPUS,
    VCPU_INFO_SIZE,
    VCPU_INFO_UPCALL_MASK,
    XEN_VERSION,
    Shutdown,
)
from kvmxen.xen.cpuid import CpuidPolicy
from kvmxen.xen.eventloop import EventLoops
from kvmxen.xen.events import EventChannels
from kvmxen.xen.grants import GrantTable
from kvmxen.xen.maptrack import Maptrack
from kvmxen.xen.watchdog import Watchdogs

_C = constants()
# No guest runs without these (KVM_CAP_*); every x86 KVM since Linux 4.17 has them.
NEEDED_CAPS = (
    Cap.USER_MEMORY,
    Cap.SPLIT_IRQCHIP,
    Cap.SIGNAL_MSI,
    Cap.SYNC_REGS,
    Cap.IMMEDIATE_EXIT,
    Cap.TSC_DEADLINE_TIMER,
)


class End(Enum):
    """How a domain ended."""

    POWEROFF = "powered off"
    REBOOT = "rebooted"
    CRASH = "crashed"
    DESTROYED = "destroyed"


class Machine:
    """A virtual machine of `layout`, ready for a kernel to be built in its `memory`.

    `uuid` is the domain's handle, the same after a reboot.
    `ended(end)` is called once, from any thread, when the guest's run is over.
    `emergency_output(data)`, if set, receives what the guest writes to Xen's emergency console.
    With `dispatcher` the hot hypercalls and traps stay in the guest. Raises KvmxenError if the host
    lacks something.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        ended: Callable[[End], None],
        uuid: UUID | None = None,
        dispatcher: bool = True,
        break_event_loops: bool = False,
    ) -> None:
        self.layout = layout
        self.uuid = uuid or uuid4()
        self.event_loops = EventLoops(break_event_loops)
        self._wants_dispatcher = dispatcher
        self.emergency_output: Callable[[bytes], None] = lambda _data: None
        self.crash_reason = ""
        self.crashed_cpu: Cpu | None = None
        self.failure: BaseException | None = None
        self.stopping = False
        self._ended = ended
        self._paused = self._started = False
        self._control = threading.Condition()
        # Held by a vCPU that changes another: whether it is up, and the state it starts with.
        self.changing_vcpus = threading.Lock()
        self._waiting = 0
        # Held while a descriptor changes in the guest's table and in the CPUs' copies of it.
        self.descriptor_lock = threading.Lock()
        self._fds: list[VcpuFd] = []
        self.cpus: list[Cpu] = []
        self.watchdogs = Watchdogs(self._watchdog_fired, lambda: self._paused)
        self.memory = GuestMemory(layout.end)
        self._system = System()
        self.vm = Vm(self._system)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for cap in NEEDED_CAPS:
            if not self._system.check_extension(cap):
                raise KvmxenError(f"this host's KVM lacks KVM_CAP_{cap.name}; use a newer kernel")
        layout = self.layout
        self.vm.enable_cap(Cap.SPLIT_IRQCHIP, 0)
        self.image = ShimImage(self.memory, layout)
        self.image.create()
        base = self.memory.host_address
        self.vm.set_memory(0, 0, min(layout.end, HOLE_START), base)
        if layout.end > HOLE_END:
            self.vm.set_memory(1, HOLE_END, layout.end - HOLE_END, base + HOLE_END)
        self.probe = self._probe()
        self.cpuid = self._cpuid_policy(self.probe.features.leaves)
        for index in range(layout.vcpus):
            fd = VcpuFd(self._system, self.vm, index)
            self._fds.append(fd)
            fd.set_cpuid(self.cpuid.entries(index))
        self.m2p_va = xen.HYPERVISOR_VIRT_START if self.probe.reaches_xen_m2p else _C["M2P_VA"]
        self.placement = self.probe.placement if self._wants_dispatcher else Placement.EXITS
        self.image.place(
            self.placement,
            xen_version=XEN_VERSION,
            tsc_khz=self._fds[0].tsc_khz(),
            sets_fs_base=self.probe.sets_fs_base,
        )
        self.tables = PageTables(
            self.memory, layout, self.image.slots, not self.probe.sees_host_stores
        )
        self.tables.create()
        self.balloon = Balloon(self.memory, self.tables, layout)
        self.grants = GrantTable(self.memory, layout)
        self.maptrack = Maptrack(self.grants)
        self.events = EventChannels(
            self.memory,
            layout.shared_info_mfn << PAGE_SHIFT,
            layout.vcpus,
            lambda index: self.cpus[index].info_gpa,
            lambda index: self.cpus[index].notify(),
            lambda index, port: self.cpus[index].set_timer_port(port),
            self._bind_ipi,
            self._listen,
        )
        self.cpus = [Cpu(self, fd) for fd in self._fds]
        for cpu in self.cpus:
            cpu.create()

    def _bind_ipi(self, port: int, index: int | None) -> None:
        kind = _C["PORT_HOST"] if index is None else _C["PORT_IPI"] + index
        self.image.domain.set_port(port, kind)

    def _listen(self, port: int, eventfd: int, on: bool) -> bool:
        """See EventChannels. Needs a dispatcher in ring 0, and room for an eventfd in KVM."""
        if self.placement is not Placement.RING0:
            return False
        # A guest that rings during teardown is ignored.
        if not on:
            self.image.domain.set_port(port, _C["PORT_HOST"])
        try:
            self.vm.listen(_C["DOORBELL_PORT"], port, eventfd, on)
        except KvmError:
            if not on:
                raise
            return False
        if on:
            self.image.domain.set_port(port, _C["PORT_DOORBELL"])
        return on

    def _probe(self) -> Probe:
        """Probe on a vCPU of its own: KVM_SET_CPUID2 fails after a vCPU's first KVM_RUN."""
        index = self.layout.vcpus
        fd = VcpuFd(self._system, self.vm, index)
        try:
            told = self._cpuid_policy(self._system.supported_cpuid())
            fd.set_cpuid(told.entries(index))
            return probe(self.memory, self.image, fd, told)
        finally:
            fd.close()

    def _cpuid_policy(self, available: Iterable[CpuidEntry]) -> CpuidPolicy:
        return CpuidPolicy(
            available,
            xen_version=XEN_VERSION,
            address_bits=self.layout.end.bit_length(),
        )

    def enter_at(self, *, entry: int, stack: int, start_info: int, cr3: int) -> None:
        """Set vCPU 0's first registers (virtual addresses, `cr3` a gpa) and every vCPU's state."""
        self._set_wallclock()
        for cpu in self.cpus:
            if cpu.index < LEGACY_MAX_VCPUS:
                cpu.show_clock()
            self.memory.write_u8(cpu.info_gpa + VCPU_INFO_UPCALL_MASK, 1)
        first = self.cpus[0]
        self.tables.install(first.vcpu, cr3)
        first.vcpu.rip, first.vcpu.rsp, first.vcpu.rsi = entry, stack, start_info
        first.initialised = True
        first.bring_up()

    def _set_wallclock(self) -> None:
        """Write the wall-clock time at system time 0 into shared_info."""
        epoch = time.time_ns() - self.now()
        seconds, nanoseconds = divmod(epoch, 1_000_000_000)
        where = self.layout.shared_info_mfn << PAGE_SHIFT
        SharedInfo.wc_sec.store(self.memory, where, seconds & 0xFFFFFFFF)
        SharedInfo.wc_sec_hi.store(self.memory, where, seconds >> 32)
        SharedInfo.wc_nsec.store(self.memory, where, nanoseconds)
        SharedInfo.wc_version.store(self.memory, where, 2)

    def first_info_gpa(self, index: int) -> int:
        """The gpa of vCPU `index`'s vcpu_info until the guest registers another."""
        if index < LEGACY_MAX_VCPUS:
            return (self.layout.shared_info_mfn << PAGE_SHIFT) + index * VCPU_INFO_SIZE
        # shared_info has no room for this one: use a frame that the guest never sees.
        return (self.layout.xenheap_mfn + XENHEAP_FRAMES - 1 << PAGE_SHIFT) + (
            index - LEGACY_MAX_VCPUS
        ) * VCPU_INFO_SIZE

    def owns(self, mfn: int) -> bool:
        """Whether machine frame `mfn` is the guest's RAM."""
        return self.tables.owns(mfn)

    @property
    def size(self) -> int:
        """The guest's memory at the moment, in bytes."""
        return (self.layout.max_pages - self.balloon.frames) << PAGE_SHIFT

    @property
    def vcpus(self) -> int:
        """The number of vCPUs that are up."""
        return sum(cpu.up for cpu in self.cpus)

    def now(self) -> int:
        """System time, in ns."""
        return self.vm.clock()

    # Running and stopping.

    def start(self, loop: Callable[[Cpu], None]) -> None:
        """Start a thread for every vCPU, which calls `loop`: see may_run."""
        install_kick(KICK_SIGNAL)
        with self._control:
            self._started = True
        for cpu in self.cpus:
            cpu.start(loop)

    def may_run(self, cpu: Cpu) -> bool:
        """Wait until `cpu` may run; returns False when the machine stops."""
        if cpu.up and not self._paused and not self.stopping:
            return True
        with self._control:
            self._waiting += 1
            self._control.notify_all()
            while not self.stopping and (self._paused or not cpu.up):
                self._control.wait()
            self._waiting -= 1
        return not self.stopping

    def wake(self) -> None:
        """From any thread: make waiting vCPUs check again whether they may run."""
        with self._control:
            self._control.notify_all()

    def pause(self) -> None:
        """Stop every vCPU where it is; returns when all have left the guest."""
        with self._control:
            self._paused = True
            for cpu in self.cpus:
                cpu.interrupt()
            while self._started and self._waiting < len(self.cpus) and not self.stopping:
                self._control.wait(0.1)
                for cpu in self.cpus:
                    cpu.interrupt()

    def resume(self) -> None:
        """Undo pause."""
        self._paused = False
        self.wake()

    def stop(self) -> None:
        """Tell every vCPU's thread to end; does not wait for them."""
        self.stopping = True
        self.wake()
        self.watchdogs.stop()
        for cpu in self.cpus:
            cpu.vcpu.ending = True
            cpu.interrupt()

    def join(self) -> None:
        """Wait for the threads after stop()."""
        for cpu in self.cpus:
            cpu.join()
        self.watchdogs.join()

    def close(self) -> None:
        """Stop, wait, close every descriptor, and free the guest's memory."""
        self.stop()
        self.join()
        for fd in self._fds:
            fd.close()
        self.vm.close()
        self._system.close()
        # This object may live on until its parts, which refer to each other, are collected.
        self.memory.release()

    def _end(self, end: End, reason: str = "", cpu: Cpu | None = None) -> None:
        # Several vCPUs may call this at the same time: the first decides how the domain ends.
        with self._control:
            first, self.stopping = not self.stopping, True
        if first:
            self.crash_reason, self.crashed_cpu = reason, cpu
            self.stop()
            self._ended(end)

    def shutdown(self, reason: Shutdown, index: int) -> None:
        """End the domain as the guest asked by vCPU `index`."""
        match reason:
            case Shutdown.POWEROFF:
                self._end(End.POWEROFF)
            case Shutdown.REBOOT | Shutdown.SOFT_RESET:
                self._end(End.REBOOT)
            case _:
                self.crash("the guest's kernel reported a crash", self.cpus[index])

    def crash(self, reason: str, cpu: Cpu) -> None:
        """End the domain because the guest cannot continue."""
        self._end(End.CRASH, reason, cpu)

    def _watchdog_fired(self, number: int) -> None:
        self._end(End.CRASH, f"it did not reset its watchdog {number} in time")

    def fail(self, error: BaseException) -> None:
        """Report an internal error in a vCPU's thread to the caller of the boot."""
        if self.failure is None:
            self.failure = error
        self._end(End.CRASH)

    def vcpu_went_down(self) -> None:
        """End the domain if no vCPU is up any more, as Xen does."""
        if not any(cpu.up for cpu in self.cpus):
            self._end(End.POWEROFF)

    # What vCPUs do to each other and to the domain.

    def flush_others(self, cpu: Cpu, mask: int = -1) -> None:
        """Make the other vCPUs of `mask` flush their TLBs before they run the guest again."""
        others = [
            other
            for other in self.cpus
            if other is not cpu and mask >> other.index & 1 and other.up
        ]
        if not others:
            return
        # The caller's own page-table updates must be visible before the others flush.
        cpu.vcpu.flush()
        for other in others:
            other.vcpu.flush_pending = True
        # A vCPU that a signal stopped in the guest continues there, so it needs a kick too.
        awake = [other for other in others if other.vcpu.entered and not other.sleeps()]
        for other in awake:
            other.kick()
        for other in awake:
            other.vcpu.wait_flushed()
