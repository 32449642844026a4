"""Running a vCPU: KVM_RUN without the GIL, kicks, exits. It knows no shim and no Xen.

A vCPU is in one state, which only its own thread changes; any thread may read it.

    host      its registers are in the Vcpu, and the guest resumes with them
    at work   KVM_RUN for the host: code of ours, or one instruction of the guest's kernel
    guest     KVM_RUN in the guest
    halted    KVM_RUN asleep, until an interrupt
    stopped   KVM has the registers: a signal ended KVM_RUN, or an exit that is not the guest's

    host -> at work -> host
    host -> guest, halted -> host, stopped
    host -> stopped -> guest, halted
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import os

from kvmxen.errors import GuestCrash

cdef extern from *:
    """
    #include <signal.h>

    static void hear_kick(int number) { (void)number; }

    static void install_kick(int number)
    {
        struct sigaction before, ours = {.sa_handler = hear_kick};
        sigaction(number, NULL, &before);
        if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)
            sigaction(number, &ours, NULL);
    }
    """
    void _install_kick "install_kick"(int number) noexcept

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, ...) noexcept

cdef extern from "linux/kvm.h":
    enum:
        KVM_RUN, KVM_KVMCLOCK_CTRL

# If a guest did not run for this long (ns), its process was stopped.
cdef int64_t _STOPPED_NS = 1000000000

_REASONS = {
    0: "unknown exit", 6: "access to memory that is not there", 8: "triple fault",
    9: "KVM could not enter the guest", 17: "KVM internal error",
}


cdef inline uint64_t _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + t.tv_nsec


def install_kick(int number):
    """From any thread: make the signal `number` interrupt KVM_RUN, and do nothing else.

    A handler that the program already has does so too, and is kept.
    """
    _install_kick(number)


cdef int[5] _NEXT
_NEXT[HOST] = 1 << AT_WORK | 1 << GUEST | 1 << HALTED | 1 << STOPPED
_NEXT[AT_WORK] = 1 << HOST
_NEXT[GUEST] = _NEXT[HALTED] = 1 << HOST | 1 << STOPPED
_NEXT[STOPPED] = 1 << GUEST | 1 << HALTED
_STATES = ("host", "at work", "guest", "halted", "stopped")


cdef class Vcpu:
    """One virtual CPU: its kvm_run area and its general registers.

    Any thread may call `interrupt` and set `attention`; all else is for the vCPU's own thread.
    """

    cdef void attach(self, int index, int fd, const uint8_t[::1] run, unsigned ignored_port):
        """Become vCPU `index`, whose KVM fd and kvm_run area must stay open until its last run.

        A write of the guest to `ignored_port` does not count as an exit.
        """
        self.index = index
        self._fd = fd
        self._run = <kvm_run *>&run[0]
        self._ignored_port = ignored_port
        self._left = _now()
        run_valid(self._run)

    def interrupt(self):
        """From any thread: make KVM_RUN return at once. Send the vCPU's thread a signal too."""
        run_immediate(self._run, 1)

    @property
    def state(self):
        """The state, by its name in the head of this file."""
        return _STATES[self._state]

    @property
    def in_guest(self):
        """Whether the vCPU's thread is in KVM_RUN."""
        return self.is_running()

    @property
    def entered(self):
        """Whether KVM has the guest's registers."""
        return self.has_entered()

    @property
    def halted(self):
        """Whether the vCPU sleeps in KVM_RUN."""
        return self._state == HALTED

    cdef bint is_running(self) noexcept nogil:
        return self._state != HOST and self._state != STOPPED

    cdef bint has_entered(self) noexcept nogil:
        return self._state >= GUEST

    cdef int check(self, int state) except -1:
        """Raise RuntimeError if `state` cannot follow the present one."""
        if not _NEXT[self._state] >> state & 1:
            raise RuntimeError(f"vCPU {self.index} cannot go from {_STATES[self._state]} to "
                               f"{_STATES[state]}")
        return 0

    cdef int become(self, int state) except -1:
        self.check(state)
        self._state = state
        return 0

    cdef bint enter(self, int state) except -1:
        """KVM_RUN once, in `state`; returns True if the guest exited, False after a signal."""
        cdef int fd = self._fd
        cdef int result
        cdef int error
        cdef uint64_t before
        cdef uint64_t after
        self.become(state)
        with nogil:
            before = _now()
            if <int64_t>(before - self._left) > _STOPPED_NS:
                # The guest's watchdogs then count from now on. Fails if KVM keeps no clock for it.
                ioctl(fd, KVM_KVMCLOCK_CTRL, 0)
            result = ioctl(fd, KVM_RUN, 0)
            while result == 0 and (
                    run_is_out(self._run) and run_port(self._run) == self._ignored_port):
                # The guest rang a backend that was being removed.
                result = ioctl(fd, KVM_RUN, 0)
            error = errno
            after = _now()
            self.guest_ns += after - before
            # A signal ends KVM_RUN only if the process is stopped or frozen, or the domain paused.
            self._left = after if result == 0 else 0
        if result == 0:
            self.become(HOST)
            self.exits += 1
            return True
        self.become(HOST if state == AT_WORK else STOPPED)
        if error == EINTR or error == EAGAIN:
            return False
        raise GuestCrash(f"KVM_RUN failed: {os.strerror(error)}")

    cdef int crash(self) except -1:
        """Raise GuestCrash for an unexpected exit; its text names the exit."""
        self.load(run_regs(self._run))
        raise GuestCrash(_REASONS.get(run_reason(self._run), f"KVM exit {run_reason(self._run)}")
                         + (f" {run_suberror(self._run)}" if run_reason(self._run) == 17 else ""))

    cdef void load(self, const kvm_regs *regs) noexcept:
        self.rax = regs.rax
        self.rbx = regs.rbx
        self.rcx = regs.rcx
        self.rdx = regs.rdx
        self.rsi = regs.rsi
        self.rdi = regs.rdi
        self.rsp = regs.rsp
        self.rbp = regs.rbp
        self.r8 = regs.r8
        self.r9 = regs.r9
        self.r10 = regs.r10
        self.r11 = regs.r11
        self.r12 = regs.r12
        self.r13 = regs.r13
        self.r14 = regs.r14
        self.r15 = regs.r15
        self.rip = regs.rip
        self.rflags = regs.rflags

    cdef void save(self, kvm_regs *regs) noexcept:
        regs.rax = self.rax
        regs.rbx = self.rbx
        regs.rcx = self.rcx
        regs.rdx = self.rdx
        regs.rsi = self.rsi
        regs.rdi = self.rdi
        regs.rsp = self.rsp
        regs.rbp = self.rbp
        regs.r8 = self.r8
        regs.r9 = self.r9
        regs.r10 = self.r10
        regs.r11 = self.r11
        regs.r12 = self.r12
        regs.r13 = self.r13
        regs.r14 = self.r14
        regs.r15 = self.r15
        regs.rip = self.rip
        regs.rflags = self.rflags
