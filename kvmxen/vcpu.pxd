from libc.stdint cimport uint8_t, uint64_t

cdef extern from "kvm/run.h":
    ctypedef struct kvm_regs "struct kvm_regs":
        uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp
        uint64_t r8, r9, r10, r11, r12, r13, r14, r15
        uint64_t rip, rflags

    ctypedef struct kvm_run "struct kvm_run":
        pass

    kvm_regs *run_regs(kvm_run *run) noexcept nogil
    bint run_is_out(const kvm_run *run) noexcept nogil
    unsigned run_port(const kvm_run *run) noexcept nogil
    unsigned run_reason(const kvm_run *run) noexcept nogil
    unsigned run_suberror(const kvm_run *run) noexcept nogil
    void run_valid(kvm_run *run) noexcept nogil
    void run_dirty(kvm_run *run) noexcept nogil
    void run_immediate(kvm_run *run, int value) noexcept nogil


cdef enum:
    # See the head of vcpu.pyx. From GUEST on, KVM has the registers.
    HOST, AT_WORK, GUEST, HALTED, STOPPED


cdef class Vcpu:
    cdef readonly int index
    cdef readonly uint64_t exits
    cdef readonly uint64_t guest_ns
    cdef int _state
    cdef public bint attention
    cdef public uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp
    cdef public uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
    cdef int _fd
    cdef kvm_run *_run
    cdef unsigned _ignored_port
    cdef uint64_t _left

    cdef void attach(self, int index, int fd, const uint8_t[::1] run, unsigned ignored_port)
    cdef bint is_running(self) noexcept nogil
    cdef bint has_entered(self) noexcept nogil
    cdef int check(self, int state) except -1
    cdef int become(self, int state) except -1
    cdef bint enter(self, int state) except -1
    cdef int crash(self) except -1
    cdef void load(self, const kvm_regs *regs) noexcept
    cdef void save(self, kvm_regs *regs) noexcept
