"""A virtual CPU of a PV guest, as Xen defines it; run.py has the loop of its thread."""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.pv.bounce import bounce
from kvmxen.pv.gate import PvVcpu
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.image import Placement
from kvmxen.pv.shim.start import CR0, CR4, load_ldt, prepare
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.arch_xen import CpuUserRegs
from kvmxen.xen.abi.shared_info import VcpuTimeInfo
from kvmxen.xen.abi.xen import (
    TI_IF,
    VCPU_INFO_CR2,
    VCPU_INFO_SIZE,
    VCPU_INFO_TIME,
    XEN_PAT,
    CallbackType,
    Virq,
    is_guests,
)
from kvmxen.xen.runstate import Runstate, State
from kvmxen.xen.timer import Timer

if TYPE_CHECKING:
    from kvmxen.pv.machine import Machine

_C = constants()
# A task priority above that of every vector.
_NO_INTERRUPTS = 0xFF
_MSR_KVM_SYSTEM_TIME = 0x4B564D01
_SYSTEM_TIME_ENABLED = 1
# Interrupts KVM_RUN; its handler does nothing (vcpu.install_kick).
KICK_SIGNAL = signal.SIGUSR1
# The flags that the guest may choose for a vCPU that it starts.
_FLAGS_AT_START = x86.EFL_ARITHMETIC | x86.EFL_DF
# DR7: local and global enables, conditions and lengths, but no general detect and no I/O.
_DR7_ALLOWED = 0xFFFF03FF
# DR6: the breakpoint bits, which each debug exception replaces, and all status bits.
_DR6_BREAKPOINTS = 0xF
_DR6_STATUS = 0xE00F
_MASK64 = (1 << 64) - 1


class Cpu:
    """vCPU `fd.index` of `machine`. Only its own thread calls its methods, unless a method says
    "any thread"."""

    def __init__(self, machine: Machine, fd: VcpuFd) -> None:
        self.machine = machine
        self.tables = machine.tables
        self.index = fd.index
        self.fd = fd
        part = machine.image.vcpu_gpa(fd.index)
        self.vcpu = PvVcpu(machine.memory, fd.index, fd.fd, fd.run, part, _C["VCPU_SIZE"])
        self.gdt_gpa = part + _C["VCPU_GDT"]
        self.ldt_gpa = part + _C["VCPU_LDT"]
        self.gdt_frames: list[int] = []
        self.ldt_frames: list[int] = []
        self.info_gpa = machine.first_info_gpa(fd.index)
        self.info_registered = False
        self.trap_table: dict[int, tuple[int, int]] = {}
        self.callbacks: dict[int, tuple[int, bool]] = {}
        self.initialised = False
        self.up = False
        self._prepared = False
        self.initial_msrs: dict[int, int] = {}
        # PHYSDEVOP_set_iobitmap: the bitmap's virtual address, and how many ports it covers.
        self.io_bitmap = 0
        self.io_ports = 0
        self.runstate_va = 0
        self._time_va = 0
        self._time_version = 0
        self.runstate = Runstate(machine.now(), self.vcpu)
        self.timer = Timer(self.vcpu, machine.now, self._arm, self._has_timer)
        # Set by any thread: the loop then asks the machine whether it may run.
        self.look_up = False
        # Called with each hypercall's number, arguments and result.
        self.on_hypercall: Callable[[int, Sequence[int], int | None], None] | None = None
        self._debug = {6: x86.DR6_FIXED, 7: x86.DR7_FIXED}
        # Whether it waits for an event, one of `_polled` if it polls.
        self.blocked = False
        self._polling = False
        self._polled: Sequence[int] = ()
        self._poll_deadline = 0
        self.nmi_pending = False
        self.upcall_withheld = False
        self.deferred: list[Callable[[], None]] = []
        self._tsc_khz = fd.tsc_khz()
        self._thread: threading.Thread | None = None
        self._last_cpu_ns = 0

    def create(self) -> None:
        """Write the state that the vCPU and the dispatcher share, for a vCPU that has not run."""
        self.vcpu.create(CR0)
        self.vcpu.set_info(self.machine.memory, self.info_gpa)

    @property
    def kernel_sp(self) -> int:
        """The guest kernel's stack for traps from user mode."""
        return self.vcpu.kernel_sp

    @kernel_sp.setter
    def kernel_sp(self, sp: int) -> None:
        self.vcpu.kernel_sp = sp

    # The thread.

    def start(self, loop: Callable[[Cpu], None]) -> None:
        """Start a thread that calls `loop`."""
        name = f"vcpu{self.index}"
        self._thread = threading.Thread(target=self._live, args=(loop,), name=name, daemon=True)
        self._thread.start()

    def _live(self, loop: Callable[[Cpu], None]) -> None:
        loop(self)
        self._last_cpu_ns = time.thread_time_ns()

    @property
    def cpu_ns(self) -> int:
        """The CPU time of its thread, in ns: in the guest, and for it; any thread may ask."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            # Another thread's clock may end at any time, and this file (proc(5)) safely with it.
            with suppress(OSError):
                figures = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
                return int(figures.split()[0])
        return self._last_cpu_ns

    def interrupt(self) -> None:
        """From any thread: make the loop check the machine's state at once."""
        self.look_up = True
        self.vcpu.attention = True
        self.vcpu.interrupt()
        thread = self._thread
        if thread and thread.ident and thread.is_alive():
            signal.pthread_kill(thread.ident, KICK_SIGNAL)

    def join(self) -> None:
        """Wait until the thread has ended; the machine's `stop` must have been called."""
        thread = self._thread
        while thread and thread.is_alive() and thread is not threading.current_thread():
            # A signal just before KVM_RUN, or in another system call, is lost, so send it again.
            self.interrupt()
            thread.join(0.02)

    def run_deferred(self) -> None:
        """Run the actions given to `defer`; in the vCPU's thread, or while it has none."""
        while self.deferred:
            self.deferred.pop(0)()

    def defer(self, action: Callable[[], None]) -> None:
        """From any thread: run `action` in the vCPU's thread before it enters the guest again."""
        if action not in self.deferred:
            self.deferred.append(action)
        self.kick()

    def kick(self) -> None:
        """From any thread: force an exit so that the vCPU checks its pending work."""
        self.vcpu.request_look()
        self.notify()

    def notify(self) -> None:
        """From any thread: make the vCPU check for events before it continues in the guest."""
        self.vcpu.attention = True
        if self.vcpu.in_guest:
            self.machine.vm.signal_msi(self.index, _C["VECTOR_EVENT"])

    # Guest memory as the guest's kernel sees it; addresses wrap as the CPU's do.

    def read(self, va: int, length: int) -> bytes:
        """A private copy of guest memory; raises GuestFault."""
        return self.tables.read(self.vcpu.kernel_cr3, va & _MASK64, length)

    def write(self, va: int, data: bytes) -> None:
        """Write guest memory; raises GuestFault."""
        self.tables.write(self.vcpu.kernel_cr3, va & _MASK64, data)

    def read_u16(self, va: int) -> int:
        """The 16-bit number at `va`; raises GuestFault."""
        return int.from_bytes(self.read(va, 2), "little")

    def read_u32(self, va: int) -> int:
        """The 32-bit number at `va`; raises GuestFault."""
        return int.from_bytes(self.read(va, 4), "little")

    def read_u64(self, va: int) -> int:
        """The 64-bit number at `va`; raises GuestFault."""
        return int.from_bytes(self.read(va, 8), "little")

    def write_u32(self, va: int, value: int) -> None:
        """Write a 32-bit number to `va`; raises GuestFault."""
        self.write(va, value.to_bytes(4, "little"))

    def write_u64(self, va: int, value: int) -> None:
        """Write a 64-bit number to `va`; raises GuestFault."""
        self.write(va, value.to_bytes(8, "little"))

    def release_extents(self, va: int, count: int, order: int) -> int:
        """Give the balloon the extents that are listed at `va`: see Balloon.release."""
        return self.machine.balloon.release(self.vcpu, va, count, order)

    def reserve_extents(self, va: int, count: int, order: int, populate: bool) -> int:
        """Take extents out of the balloon and list them at `va`: see Balloon.reserve."""
        return self.machine.balloon.reserve(self.vcpu, va, count, order, populate)

    def translate(self, va: int) -> int:
        """The gpa of `va`; raises GuestFault."""
        return self.tables.translate(self.vcpu.kernel_cr3, va & _MASK64)

    def read_code(self, length: int) -> bytes:
        """The code at RIP, in the address space in use; raises GuestFault."""
        return self.tables.read(self.vcpu.cr3, self.vcpu.rip, length)

    # Traps.

    def bounce(self, handler: int, mask_events: bool, error_code: int | None) -> None:
        """Enter the guest's kernel at `handler` through a bounce frame (see bounce.pyx)."""
        bounce(
            self.vcpu, self.tables, self.info_gpa, self.kernel_sp, handler, mask_events, error_code
        )

    def end_interrupt(self) -> None:
        """Tell the LAPIC that our interrupt has been handled."""
        self.fd.set_msr(x86.MSR_X2APIC_EOI, 0)

    def step_in_ring0(self) -> int:
        """Execute the guest kernel's next instruction in ring 0. Returns the trap that ended it:
        1 (#DB) if the instruction completed; the CPU's DR6 then shows the single step."""
        # The trap may come through a dispatcher in ring 3, which an interrupt could meet.
        self.fd.set_msr(x86.MSR_X2APIC_TPR, _NO_INTERRUPTS)
        try:
            return int(self.vcpu.step_in_ring0())
        finally:
            self.fd.set_msr(x86.MSR_X2APIC_TPR, 0)

    def sleeps(self) -> bool:
        """From any thread: whether the vCPU sleeps, and will exit before it runs the guest."""
        if self.machine.placement is Placement.RING0:
            return self.vcpu.stays_out()
        return self.vcpu.halted

    def send_nmi(self) -> None:
        """From any thread: make the vCPU run the guest's NMI callback."""
        self.nmi_pending = True
        self.kick()

    # Blocking and time.

    def break_event_loop(self) -> None:
        """Withhold the next upcall of a vCPU in an event loop for a while (see eventloop.py)."""
        vcpu = self.vcpu
        delay = self.machine.event_loops.met(self.index, (vcpu.rip, vcpu.rsp))
        if delay:
            self.upcall_withheld = True
            vcpu.forget_event_loop()
            self.timer.set_wake(self.machine.now() + delay)

    def note_own_event(self) -> None:
        """Note that the vCPU has sent an event to itself, so that an event loop is found."""
        self.vcpu.note_own_event()

    def block(self) -> None:
        """Sleep until an event."""
        self.blocked = True

    def poll(self, ports: Sequence[int], deadline: int) -> None:
        """Sleep until one of `ports` is pending or until `deadline` (system time, ns; 0: none)."""
        self._polled, self._poll_deadline = ports, deadline
        self.timer.set_wake(deadline)
        self._polling = self.blocked = True

    def wake(self) -> bool:
        """Whether the blocked vCPU wakes now; updates its runstate."""
        if self.vcpu.upcall_ready or self.nmi_pending:
            awake = True
        elif self._polling:
            awake = self._poll_expired() or any(map(self._pending, self._polled))
        else:
            awake = False
        state = State.RUNNING if awake else State.BLOCKED
        if self.runstate.state is not state:
            self.runstate.enter(state, self.machine.now())
            self.publish_runstate()
        if awake:
            self.blocked = False
            self._polling = False
        return awake

    def _poll_expired(self) -> bool:
        return 0 < self._poll_deadline <= self.machine.now()

    def _pending(self, port: int) -> bool:
        try:
            return self.machine.events.is_pending(port)
        except HypercallError:
            return True

    def _has_timer(self) -> bool:
        return self.machine.events.has_virq(Virq.TIMER, self.index)

    def _arm(self, deadline: int) -> None:
        if deadline:
            wait = max(0, deadline - self.machine.now())
            # Read each time: KVM moves the guest's TSC if the host's is not stable.
            deadline = self.fd.get_msr(x86.MSR_TSC) + wait * self._tsc_khz // 1_000_000
        self.fd.set_msr(x86.MSR_TSC_DEADLINE, deadline)

    def timer_expired(self) -> None:
        """Handle the LAPIC's timer interrupt."""
        self.publish_time()
        if self.timer.expire():
            self.machine.events.raise_virq(Virq.TIMER, self.index)

    def publish_runstate(self) -> None:
        """Write the runstate to the address that the guest registered; a fault unregisters it."""
        if self.runstate_va and self.vcpu.kernel_cr3:
            try:
                self.write(self.runstate_va, self.runstate.pack(self.machine.now()))
            except GuestFault:
                self.runstate_va = 0

    def show_time_at(self, va: int) -> None:
        """From any thread: also keep a copy of the vcpu_info's time at `va`; 0 for none."""
        self._time_va, self._time_version = va, 0
        self.defer(self.publish_time)

    def publish_time(self) -> None:
        """Copy the vcpu_info's time to the address that the guest registered for its user code."""
        memory = self.machine.memory
        version = memory.read_u32(self.info_gpa + VCPU_INFO_TIME)
        if version & 1 or version == self._time_version:
            return
        if self._time_va:
            time = memory.read(self.info_gpa + VCPU_INFO_TIME, VcpuTimeInfo.bits64.size)
            try:
                # The version is odd while the rest changes, as pvclock readers expect.
                self.write(self._time_va, (version | 1).to_bytes(4, "little"))
                self.write(self._time_va + 4, time[4:])
                self.write(self._time_va, version.to_bytes(4, "little"))
            except GuestFault:
                self._time_va = 0
        self._time_version = version
        self.vcpu.set_time_version(version)

    # What the guest registers.

    def set_trap(self, vector: int, flags: int, address: int) -> None:
        """Set the kernel's handler of trap `vector`, with struct trap_info's flags; 0 for none."""
        if address:
            self.trap_table[vector] = flags, address
        else:
            self.trap_table.pop(vector, None)
        if vector < 32:
            self.vcpu.set_trap(vector, address, bool(flags & TI_IF))

    def set_timer_port(self, port: int) -> None:
        """Set the port that VIRQ_TIMER is bound to; 0 for none."""
        self.vcpu.set_timer_port(port)

    def set_callback(self, kind: CallbackType, address: int, mask_events: bool) -> None:
        """Set the kernel's entry point for `kind`."""
        self.callbacks[kind] = address, mask_events
        self.vcpu.set_callback(kind, address, mask_events)

    def show_clock(self) -> None:
        """Make KVM update the time in this vCPU's vcpu_info."""
        self.fd.set_msr(_MSR_KVM_SYSTEM_TIME, self.info_gpa + VCPU_INFO_TIME | _SYSTEM_TIME_ENABLED)

    def move_info(self, gpa: int) -> None:
        """From any thread: move the vcpu_info to `gpa`."""
        memory = self.machine.memory
        memory.write(gpa, memory.read(self.info_gpa, VCPU_INFO_SIZE))
        self.info_gpa = gpa
        self.vcpu.set_info(memory, gpa)
        self.info_registered = True
        self.machine.events.reselect(self.index)
        if threading.current_thread() is self._thread:
            self.show_clock()
        else:
            self.defer(self.show_clock)

    def set_base_pointers(self, kernel_mfn: int, user_mfn: int, by: Cpu) -> None:
        """Set the page tables of a vCPU that has never run, for a hypercall of `by`; raises
        HypercallError(EINVAL) if a frame is not the guest's."""
        self.tables.set_kernel_base(self.vcpu, kernel_mfn, by.vcpu)
        self.tables.set_user_base(self.vcpu, user_mfn, by.vcpu)

    def set_registers(self, registers: CpuUserRegs) -> None:
        """Load the registers into a vCPU that is not up."""
        for name in x86.REGISTERS:
            setattr(self.vcpu, name, getattr(registers, name))
        if not x86.is_canonical(registers.rip):
            raise HypercallError(errno.EINVAL)
        self.vcpu.rip = registers.rip
        self.vcpu.cs, self.vcpu.ss = registers.cs | 3, registers.ss | 3
        self.vcpu.rflags = registers.rflags & _FLAGS_AT_START | x86.EFL_IF | x86.EFL_FIXED
        self.vcpu.iopl = registers.rflags >> x86.EFL_IOPL_SHIFT & 3

    def bring_up(self) -> None:
        """From any thread: VCPUOP_up."""
        if not self.up:
            self.defer(self._load_initial_state)
            self.up = True
            self.machine.wake()

    def _load_initial_state(self) -> None:
        machine = self.machine
        # A vCPU that was up before continues where it was.
        if not self._prepared:
            self._prepared = True
            prepare(
                self.fd,
                machine.image,
                machine.placement,
                part_gpa=machine.image.vcpu_gpa(self.index),
                cr3=self.vcpu.kernel_cr3,
                pat=XEN_PAT,
                xcr0=machine.cpuid.xcr0 if machine.probe.features.sets_xcr0 else 0,
            )
            for msr, value in self.initial_msrs.items():
                self.fd.set_msr(msr, value)
        self.runstate.enter(State.RUNNING, machine.now())

    def take_down(self) -> None:
        """From any thread: VCPUOP_down; the last vCPU that goes down ends the domain."""
        self.up = False
        self.look_up = True
        self.runstate.enter(State.OFFLINE, self.machine.now())
        self.kick()
        self.machine.vcpu_went_down()

    # Registers that a PV kernel reaches through us.

    def load_ldt(self, entries: int) -> None:
        """Load the LDT that has been copied into the shim."""
        load_ldt(self.fd, self.machine.image, entries)

    def set_xcr0(self, value: int) -> None:
        """Execute xsetbv with a value that has been checked."""
        if self.machine.probe.features.sets_xcr0:
            self.fd.set_xcr0(value)

    def control_register(self, number: int) -> int | None:
        """CR0, CR2, CR3 or CR4 as the guest's kernel sees it; None for any other."""
        match number:
            case 0:
                return self.vcpu.cr0
            case 2:
                return self.machine.memory.read_u64(self.info_gpa + VCPU_INFO_CR2)
            case 3:
                return self.vcpu.kernel_cr3
            case 4:
                return CR4
        return None

    def set_control_register(self, number: int, value: int) -> bool:
        """Write CR0 (only TS may change), CR2, CR3 or CR4 (ignored); returns False if refused."""
        match number:
            case 0:
                if (value ^ self.vcpu.cr0) & ~x86.CR0_TS:
                    return False
                self.vcpu.set_task_switched(bool(value & x86.CR0_TS))
            case 2:
                self.machine.memory.write_u64(self.info_gpa + VCPU_INFO_CR2, value)
            case 3:
                self.tables.set_kernel_base(self.vcpu, value >> PAGE_SHIFT)
            case 4:
                pass
            case _:
                return False
        return True

    def debug_register(self, number: int) -> int:
        """DR0-3, 6 or 7; HypercallError(EINVAL) for any other."""
        if number not in (0, 1, 2, 3, 6, 7):
            raise HypercallError(errno.EINVAL)
        return self._debug.get(number, 0)

    def set_debug_register(self, number: int, value: int) -> None:
        """Set DR0-3, 6 or 7; EINVAL for any other, EPERM for an address or value not allowed."""
        if number not in (0, 1, 2, 3, 6, 7):
            raise HypercallError(errno.EINVAL)
        if number < 4:
            # A breakpoint inside the shim would trap in code that must not trap.
            if not is_guests(value):
                raise HypercallError(errno.EPERM)
        elif number == 6:
            # Only the guest's copy: the CPU's DR6 is empty except while we handle an exception.
            self._debug[6] = value & _DR6_STATUS | x86.DR6_FIXED
            return
        else:
            value = value & _DR7_ALLOWED | x86.DR7_FIXED
            if any(value >> shift & 3 == 2 for shift in (16, 20, 24, 28)):
                raise HypercallError(errno.EPERM)
        if self._debug.get(number, 0) == value:
            return
        self._debug[number] = value
        registers = self.fd.get_debugregs()
        for i in range(4):
            registers.db[i] = self._debug.get(i, 0)
        registers.dr6, registers.dr7 = x86.DR6_FIXED, self._debug[7]
        self.fd.set_debugregs(registers)

    def take_debug_status(self) -> None:
        """Merge the CPU's DR6 into the guest's after a debug exception of the guest (by the
        manuals' rules, and x86_merge_dr6 of Xen's arch/x86/debug.c)."""
        status = self.drop_debug_status()
        if status & _DR6_BREAKPOINTS:
            self._debug[6] &= ~_DR6_BREAKPOINTS
        self._debug[6] |= status

    def drop_debug_status(self) -> int:
        """Clear the CPU's DR6, to which CPUs only add bits; returns its old status bits."""
        registers = self.fd.get_debugregs()
        status = int(registers.dr6) & _DR6_STATUS
        if status:
            registers.dr6 = x86.DR6_FIXED
            self.fd.set_debugregs(registers)
        return status
