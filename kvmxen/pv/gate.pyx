"""A PV vCPU at the shim's gate: how the guest resumes, and why it exits. No policy.

`run` writes the registers and the gate's work list (touches, TLB flushes, cr3, swapgs), and
returns the next trap.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from kvmxen.xen.abi.x86 cimport (
    CR0_TS, EFL_AC, EFL_ARITHMETIC, EFL_DF, EFL_FIXED, EFL_ID, EFL_IF, EFL_TF, TRAP_BREAKPOINT,
    TRAP_DEBUG, TRAP_INVALID_OPCODE, TRAP_PAGE_FAULT, TRAPS_WITH_ERROR_CODE,
)
from kvmxen.xen.abi.xen cimport (
    FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS, VCPU_INFO_SIZE, VCPU_INFO_UPCALL_MASK,
    VCPU_INFO_UPCALL_PENDING,
)
from kvmxen.kvm.memory cimport GuestMemory
from kvmxen.pv.shim.shared cimport SharedState, shim_frame, shim_state
from kvmxen.vcpu cimport (
    AT_WORK, GUEST, HALTED, STOPPED, kvm_regs, kvm_run, run_dirty, run_immediate, run_port,
    run_reason, run_regs, run_suberror,
)

from kvmxen.errors import GuestCrash

cdef extern from "sched.h" nogil:
    int sched_yield() noexcept

cdef extern from *:
    """
    #include <stddef.h>
    #include "kvm/run.h"
    #include "pv/shim/abi.h"

    static inline int is_gate_exit(const struct kvm_run *run)
    {
        return run_is_out(run)
               && (run->io.port < NR_STUBS || run->io.port - (unsigned)STUB_KERNEL < NR_STUBS
                   || run->io.port == TRAP_SYSCALL32 || run->io.port == TRAP_SYSENTER);
    }
    """
    bint _is_gate_exit "is_gate_exit"(const kvm_run *run) noexcept nogil
    enum:
        STUB_SIZE, STUB_DONE, STUB_EVENT, STUB_FRAME, STUB_KERNEL
        GATE_STUBS, GATE_OP_RETURN, GATE_IRET, GATE_OP_TOUCH, GATE_OP_INVLPG, GATE_OP_CR3
        GATE_OP_CR0, GATE_OP_SWAPGS, GATE_OP_HALT, GATE_OP_WRMSR
        GATE_OP_USER_GS
        GATE_SYSCALL32, GATE_SYSENTER, SYSCALL_ENTRY
        DISPATCHER, DISPATCHER_SIZE, DISPATCHER_RESUME, DISPATCHER_RESUMED
        VCPU_WORK, VCPU_WORK_END
        VCPU_DEBUG_STACK_END, VCPU_TRAP_STACK_END, VCPU_INTERRUPT_STACK_END
        VCPU_STATE, VCPU_FRAME_END, VCPU_SYSCALL_PAGE
        SEL_RING0_CS, SEL_RING0_SS
        _TRAP_SYSCALL "TRAP_SYSCALL"
        _TRAP_SYSCALL32 "TRAP_SYSCALL32"
        _TRAP_SYSENTER "TRAP_SYSENTER"
        _TRAP_BAD_IRET "TRAP_BAD_IRET"
        _INTERRUPTED "INTERRUPTED"
        DOORBELL_PORT
        _TRAP_LOST_DEBUG "TRAP_LOST_DEBUG"
    const uint64_t SHIM_VA
    const uint64_t PHYSMAP_VA

# The flags that user code may have set when it makes a system call.
cdef uint64_t _USER_FLAGS = EFL_ID | EFL_AC | EFL_DF | EFL_TF | EFL_ARITHMETIC
# Room for touches; the rest of the list is for the other operations and its end.
cdef int _MAX_TOUCHES = (VCPU_WORK_END - VCPU_WORK) // 16 - 48

cdef inline int _compat_call(uint64_t rip) noexcept:
    """The 32-bit system call that caused a page fault at `rip`, 0 for none. A host that interprets
    32-bit code continues at the low half of the call's entry address, where no page is mapped."""
    if rip == GATE_SYSCALL32:
        return _TRAP_SYSCALL32
    return _TRAP_SYSENTER if rip == GATE_SYSENTER else 0


cdef class PvVcpu(SharedState):
    """A virtual CPU and its part of the shim's memory.

    `fd` and `run` are the vCPU's KVM fd and its kvm_run area, which must stay open until its
    last run; its part of the shim is `part_size` bytes at `part_gpa`, where `create` writes the
    state of a new vCPU.
    """

    def __cinit__(self, GuestMemory memory, int index, int fd, const uint8_t[::1] run,
                  uint64_t part_gpa, uint64_t part_size):
        self.attach(index, fd, run, DOORBELL_PORT)
        self._owner = memory
        self._part = memory.at(part_gpa, part_size)
        self._part_va = SHIM_VA + part_gpa
        self._work = <uint64_t *>(self._part + VCPU_WORK)
        self.state = <shim_state *>(self._part + VCPU_STATE)
        self.cs = FLAT_RING3_CS64
        self.ss = FLAT_RING3_SS
        self.rflags = EFL_IF | EFL_FIXED

    def set_info(self, GuestMemory memory, uint64_t gpa):
        """Set the gpa of the guest's vcpu_info; raises GuestFault."""
        self._info = memory.at(gpa, VCPU_INFO_SIZE)
        self.state.info_gpa = gpa

    def take_done(self):
        """How many operations of the hypercall's list the dispatcher did; resets the number."""
        cdef uint64_t done = self._done
        self._done = 0
        return done

    @property
    def upcall_ready(self):
        """Whether the vcpu_info has events pending and not masked."""
        return (self._info[VCPU_INFO_UPCALL_PENDING] != 0
                and self._info[VCPU_INFO_UPCALL_MASK] == 0)

    def count_hypercall(self, uint64_t number):
        """Count hypercall `number`; all from 63 up count as one."""
        self._hypercalls[number if number < 63 else 63] += 1

    @property
    def hypercalls(self):
        """How often each hypercall exited, by number; 63 stands for all from 63 up."""
        return {i: self._hypercalls[i] for i in range(64) if self._hypercalls[i]}

    @property
    def traps(self):
        """How often each trap exited, by the number that `run` returns for it."""
        return {i: self._traps[i] for i in range(48) if self._traps[i]}

    # What must happen in the guest before it resumes.

    cdef int touch(self, uint64_t gpa) except -1 nogil:
        """Make a shadow-paging KVM see the host's store to the page-table entry at `gpa`."""
        if self._touches == _MAX_TOUCHES:
            with gil:
                self.flush()
        self._work[2 * self._touches] = SHIM_VA + GATE_OP_TOUCH
        self._work[2 * self._touches + 1] = PHYSMAP_VA + gpa
        self._touches += 1
        return 0

    cpdef int invlpg(self, uint64_t va) except -1:
        """Drop the translation of `va` before the guest resumes; over 32 become a full flush."""
        if self._invlpgs == 32:
            self._load_cr3 = True
        else:
            self._invlpg[self._invlpgs] = va
            self._invlpgs += 1

    def flush_tlb(self):
        """Reload cr3 before the guest resumes."""
        self.reload()

    cdef void reload(self) noexcept nogil:
        self._load_cr3 = True

    cdef void leave(self, uint64_t cr3) noexcept:
        """Note that the kernel's base pointer was `cr3`; the CPU keeps it until it reloads."""
        if not self.leaving:
            self.leaving = cr3
        self.reload()

    def toggle_mode(self):
        """Switch between guest kernel and guest user: the other cr3 and the other GS base."""
        self.state.kernel_mode = not self.state.kernel_mode
        self._swapgs = not self._swapgs
        self._load_cr3 = True

    def set_task_switched(self, bint ts):
        """Set the guest's CR0.TS; if set, the next FPU instruction traps."""
        self.state.cr0 = self.state.cr0 | CR0_TS if ts else self.state.cr0 & ~CR0_TS

    @property
    def cr0(self):
        """The CR0 that the guest resumes with."""
        return self.state.cr0

    cdef uint64_t _current_cr3(self) noexcept:
        # Only the kernel's address spaces contain the dispatcher in ring 3.
        if self.state.kernel_mode or self.in_dispatcher:
            return self.state.kernel_cr3
        return self.state.user_cr3

    @property
    def cr3(self):
        """The gpa of the L4 table in use."""
        return self._current_cr3()

    cdef int _compose(self) except -1:
        """Complete the work list except its last operation; returns the number of words in use."""
        self.check(AT_WORK)
        cdef uint64_t *work = self._work
        cdef int n = 2 * self._touches
        cdef int i
        if self.flush_pending:
            self.flush_pending = False
            self._load_cr3 = True
        if self._load_cr3:
            self._invlpgs = 0
        for i in range(self._invlpgs):
            work[n] = SHIM_VA + GATE_OP_INVLPG
            work[n + 1] = self._invlpg[i]
            n += 2
        if self.state.cr0 != self.state.loaded_cr0:
            work[n] = SHIM_VA + GATE_OP_CR0
            work[n + 1] = self.state.loaded_cr0 = self.state.cr0
            n += 2
        if self._loads_gs:
            work[n] = SHIM_VA + GATE_OP_USER_GS
            work[n + 1] = self._gs
            self._loads_gs = False
            n += 2
        if self._msr:
            work[n] = SHIM_VA + GATE_OP_WRMSR
            work[n + 1] = self._msr
            work[n + 2] = self._msr_value >> 32
            work[n + 3] = self._msr_value & 0xffffffff
            self._msr = 0
            n += 4
        if self._swapgs:
            work[n] = SHIM_VA + GATE_OP_SWAPGS
            n += 1
        if self._load_cr3:
            work[n] = SHIM_VA + GATE_OP_CR3
            work[n + 1] = self._current_cr3()
            self.leaving = 0
            n += 2
        self._touches = self._invlpgs = 0
        self._load_cr3 = self._swapgs = False
        return n

    cdef void _start(self):
        """Point the vCPU at the work list."""
        cdef kvm_regs *out = run_regs(self._run)
        self.save(out)
        out.rflags = EFL_FIXED
        out.rip = self._work[0]
        out.rsp = self._part_va + VCPU_WORK + 8
        if out.rip == SHIM_VA + GATE_OP_RETURN:
            # %rax is loaded already, and instructions in ring 0 are slow on some hosts.
            out.rip = SHIM_VA + GATE_IRET
            out.rsp += 8
        run_dirty(self._run)

    def flush(self):
        """Run the work list now, without resuming the guest."""
        cdef int n = self._compose()
        if n == 0:
            return
        self._work[n] = SHIM_VA + GATE_STUBS + STUB_DONE * STUB_SIZE
        self._start()
        self._enter_to_exit()
        if not _is_gate_exit(self._run) or run_port(self._run) != STUB_DONE:
            raise GuestCrash("the shim faulted while it updated page tables")

    def run(self):
        """Resume the guest until its next trap.

        Returns a stub number of shim/abi.h, TRAP_SYSCALL or a trap listed after it there, or
        INTERRUPTED after `interrupt` or if `attention` was set (which it resets). Raises
        GuestCrash if the guest cannot continue.
        """
        if not self.has_entered():
            if self.attention:
                self.attention = False
                return _INTERRUPTED
            self._start_guest(self.cs, self.ss, self.rflags)
        return self._run_to_trap(GUEST)

    cdef void _start_guest(self, uint16_t cs, uint16_t ss, uint64_t rflags):
        """Complete the work list so that it returns to the guest."""
        if self.come_back():
            self._load_cr3 = True
        cdef uint64_t *last = self._work + self._compose()
        last[0] = SHIM_VA + GATE_OP_RETURN
        last[1] = self.rax
        last[2] = self.rip
        last[3] = cs
        last[4] = rflags
        last[5] = self.rsp
        last[6] = ss
        self._start()

    def step_in_ring0(self):
        """Execute the guest kernel's next instruction in ring 0.

        Returns the trap that ended it: 1 (#DB) if the instruction completed.
        """
        cdef uint16_t cs = self.cs, ss = self.ss
        cdef uint64_t traced = self.rflags & EFL_TF
        cdef int trap
        self._start_guest(SEL_RING0_CS, SEL_RING0_SS, (self.rflags | EFL_TF) & ~EFL_IF)
        self._enter_to_exit()
        if not _is_gate_exit(self._run):
            self.crash()
        self._stepping = True
        try:
            trap = self._decode()
        finally:
            self._stepping = False
        self.cs, self.ss = cs, ss
        self.rflags = self.rflags & ~EFL_TF | traced | EFL_IF
        return trap

    def halt(self):
        """Sleep in KVM until an interrupt; returns as `run` does, normally STUB_EVENT."""
        cdef int n
        if not self.has_entered():
            if self.attention:
                self.attention = False
                return _INTERRUPTED
            n = self._compose()
            self._work[n] = SHIM_VA + GATE_OP_HALT
            self._start()
        return self._run_to_trap(HALTED)

    def arguments(self):
        """The hypercall arguments of a 64-bit PV guest, in order."""
        return (self.rdi, self.rsi, self.rdx, self.r10, self.r8,
                self.r9)

    def wait_flushed(self):
        """From another vCPU's thread: wait until this one has left the guest or flushed."""
        cdef uint64_t before = self.exits
        with nogil:
            while self.flush_pending and self.is_running() and self.exits == before:
                sched_yield()

    cdef int _enter_to_exit(self) except -1:
        """KVM_RUN, despite signals, until the guest exits; raises GuestCrash if `ending` is set."""
        while not self.enter(AT_WORK):
            # `attention`, set before the signal, still stops the next run.
            run_immediate(self._run, 0)
            if self.ending:
                raise GuestCrash("stopped in the shim")

    cdef object _run_to_trap(self, int state):
        if not self.enter(state):
            run_immediate(self._run, 0)
            return _INTERRUPTED
        if not _is_gate_exit(self._run):
            if (run_reason(self._run) == 17 and run_suberror(self._run) == 1
                    and not self.state.kernel_mode):
                self.load(run_regs(self._run))
                return self._decode_uninterpreted()
            self.crash()
        cdef int trap = self._decode()
        self._traps[trap] += 1
        return trap

    cdef int _decode_uninterpreted(self) noexcept:
        """The trap for an instruction that the host's interpreter lacks: int3 at LSTAR, or SSE.
        Some hosts interpret interrupted user code if its stack pointer is not canonical."""
        self.in_ring3 = True
        self.cs, self.ss = FLAT_RING3_CS64, FLAT_RING3_SS
        if self.rip != self._part_va + VCPU_SYSCALL_PAGE + SYSCALL_ENTRY:
            return TRAP_INVALID_OPCODE
        self.rip, self.rflags = self.rcx, self.r11
        return _TRAP_SYSCALL

    cdef int _decode(self) except -1:
        cdef unsigned port = run_port(self._run)
        cdef bint kernel_gate = port >= STUB_KERNEL
        cdef unsigned stub = port - STUB_KERNEL if kernel_gate else port
        cdef bint interrupt = STUB_EVENT <= stub < STUB_DONE
        cdef uint64_t *top = <uint64_t *>(self._part + (
            VCPU_INTERRUPT_STACK_END if interrupt
            else VCPU_DEBUG_STACK_END if stub == TRAP_DEBUG else VCPU_TRAP_STACK_END))
        cdef kvm_regs *out = run_regs(self._run)
        cdef uint64_t rip = top[-5]
        cdef uint64_t page = self._part_va + VCPU_SYSCALL_PAGE
        cdef bint ring0 = not top[-4] & 3
        self.in_dispatcher = False
        if stub == STUB_FRAME:
            return self._decode_frame(kernel_gate)
        if stub == TRAP_BREAKPOINT and rip == page + SYSCALL_ENTRY + 1:
            self._take_syscall(out, top[-2])
            self.syscall_ring = top[-4] & 3
            return _TRAP_SYSCALL
        if stub == _TRAP_SYSCALL32 or stub == _TRAP_SYSENTER:
            self.load(out)
            return self._take_compat_call(stub)
        if stub == TRAP_DEBUG and ring0 and rip == SHIM_VA + GATE_STUBS + TRAP_DEBUG * STUB_SIZE:
            # INT1 after a watched load of SS: the second trap has overwritten the first's frame.
            raise GuestCrash("a debug trap within a debug trap")
        if stub == TRAP_DEBUG and not self._stepping and (
                ring0 or kernel_gate and self._is_dispatchers(rip)):
            # Drop it, as Xen's do_debug does, and stop stepping unless SYSENTER's flags are still
            # to be saved; the stub's iretq continues there.
            if rip != SHIM_VA + GATE_SYSENTER:
                top[-3] &= ~EFL_TF
            self.become(STOPPED)
            return _TRAP_LOST_DEBUG
        if kernel_gate and interrupt and self._take_bad_iret():
            # The interrupt met the dispatcher before it could report the bad iret. The registers
            # to return with are still here, so the next entry fails in the same way.
            if not self.state.kernel_mode:
                self._swapgs = not self._swapgs
                self._load_cr3 = True
            return stub
        if ring0 and not self._stepping:
            if stub >= STUB_EVENT:
                return stub
            if rip == SHIM_VA + GATE_IRET:
                self.error_code = top[-6]
                return _TRAP_BAD_IRET
            if stub == TRAP_PAGE_FAULT and _compat_call(rip):
                self.load(out)
                self._load_trap(top)
                self.rax = top[-7]
                return self._take_compat_call(_compat_call(rip))
            raise GuestCrash(f"exception {stub} inside the shim at {rip:#x}")
        self.load(out)
        if stub == TRAP_PAGE_FAULT:
            self.cr2 = out.rax
            self.rax = top[-7]
        if stub < 32 and TRAPS_WITH_ERROR_CODE >> stub & 1:
            self.error_code = top[-6]
        else:
            self.error_code = 0
        self._load_trap(top)
        if kernel_gate:
            self.in_dispatcher = self._in_dispatcher(rip)
        elif interrupt and rip == page + SYSCALL_ENTRY:
            # A SYSCALL that has not trapped yet, and would not trap on another vCPU: undo it.
            self.rip = self.rcx - 2
            self.rflags = self.r11 & _USER_FLAGS | EFL_IF | EFL_FIXED
        return stub

    cdef bint _take_bad_iret(self) noexcept:
        """Whether the gate's iretq into the guest failed in the last trap; True only once."""
        cdef uint64_t *top = <uint64_t *>(self._part + VCPU_TRAP_STACK_END)
        if top[-4] & 3 or top[-5] != SHIM_VA + GATE_IRET:
            return False
        top[-5] = 0
        return True

    cdef void _load_trap(self, const uint64_t *top) noexcept:
        self.rip = top[-5]
        self.cs = <uint16_t>top[-4]
        self.rflags = top[-3]
        self.rsp = top[-2]
        self.ss = <uint16_t>top[-1]

    cdef bint _in_dispatcher(self, uint64_t rip) noexcept:
        """Whether an interrupt met the dispatcher in ring 3. Restarts the dispatcher's last steps,
        which may already have missed an event."""
        cdef uint64_t at = rip - SHIM_VA - DISPATCHER
        if DISPATCHER_RESUME <= at < DISPATCHER_RESUMED:
            self.rip = SHIM_VA + DISPATCHER + DISPATCHER_RESUME
            self.rsp = self._part_va + VCPU_FRAME_END - sizeof(shim_frame)
        return self._is_dispatchers(rip)

    cdef bint _is_dispatchers(self, uint64_t rip) noexcept:
        return (rip - SHIM_VA - DISPATCHER < <uint64_t>DISPATCHER_SIZE
                or rip - self._part_va - VCPU_SYSCALL_PAGE < 4096)

    cdef int _decode_frame(self, bint in_ring3) except -1:
        """Take the trap that the dispatcher left to the host, and the registers in its frame."""
        cdef shim_frame frame = (
            <shim_frame *>(self._part + VCPU_FRAME_END - sizeof(shim_frame)))[0]
        cdef shim_state *state = self.state
        cdef uint64_t trap = frame.vector
        if state.flush or state.invlpgs:
            self._load_cr3 = True
        if state.loaded_kernel_mode and state.loaded_cr3 != state.kernel_cr3:
            self.leave(state.loaded_cr3)
        if state.loads_gs:
            self._loads_gs = True
            self._gs = state.gs
        if state.msr:
            self._msr = state.msr
            self._msr_value = state.msr_value
        if state.loaded_kernel_mode != state.kernel_mode:
            self._swapgs = not self._swapgs
            self._load_cr3 = True
        self._done = frame.done
        self.error_code = frame.error_code
        if not in_ring3:
            self.waiting = state.waiting
            state.waiting = False
        cdef bint inside = not frame.cs & 3 and not self._stepping
        if inside:
            if STUB_EVENT <= trap < STUB_DONE:
                return <int>trap
            if frame.rip == SHIM_VA + GATE_IRET:
                return _TRAP_BAD_IRET
            if trap == TRAP_PAGE_FAULT and _compat_call(frame.rip):
                self._load_frame(&frame)
                return self._take_compat_call(_compat_call(frame.rip))
        if trap >= STUB_DONE and not _TRAP_SYSCALL <= trap <= _TRAP_SYSENTER:
            raise GuestCrash(f"the shim left trap {trap} to the host")
        if inside or (in_ring3 and state.kernel_mode and frame.rip >> 39 == SHIM_VA >> 39
                      and trap < _TRAP_SYSCALL):
            raise GuestCrash(f"exception {trap} inside the shim at {frame.rip:#x}")
        self._load_frame(&frame)
        return <int>trap

    cdef void _load_frame(self, const shim_frame *frame) noexcept:
        self.rax = frame.rax
        self.rbx = frame.rbx
        self.rcx = frame.rcx
        self.rdx = frame.rdx
        self.rsi = frame.rsi
        self.rdi = frame.rdi
        self.rbp = frame.rbp
        self.r8 = frame.r8
        self.r9 = frame.r9
        self.r10 = frame.r10
        self.r11 = frame.r11
        self.r12 = frame.r12
        self.r13 = frame.r13
        self.r14 = frame.r14
        self.r15 = frame.r15
        self.rip = frame.rip
        self.rflags = frame.rflags
        self.rsp = frame.rsp
        self.cs = <uint16_t>frame.cs
        self.ss = <uint16_t>frame.ss
        self.cr2 = frame.cr2

    cdef void _take_syscall(self, kvm_regs *out, uint64_t rsp):
        self.load(out)
        self.rip = out.rcx
        self.rflags = out.r11
        self.rsp = rsp
        self.cs = FLAT_RING3_CS64
        self.ss = FLAT_RING3_SS

    cdef int _take_compat_call(self, int trap) noexcept:
        """Set the registers that Xen shows after SYSCALL of 32-bit code, or SYSENTER (cstar_enter
        and sysenter_entry of xen/arch/x86/x86_64/entry.S); the others are loaded already."""
        self.ss = FLAT_RING3_SS
        if trap == _TRAP_SYSCALL32:
            self.rip, self.rflags = self.rcx, self.r11
            self.cs = FLAT_RING3_CS32
        else:
            self.rip = self.rsp = 0
            self.cs = 3
        return trap
