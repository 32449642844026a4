"""The engine on io_uring(7), through its system calls: one call starts and awaits many operations.

It needs Linux 6.1 or later, where completions can wait until their thread asks for them.
"""

from libc.errno cimport EAGAIN, EBUSY, EINTR, EIO, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from kvmxen.backends.block.engine cimport (
    OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, Engine, Op, advance, iovec,
)

import os

cdef extern from "<poll.h>" nogil:
    const int POLLIN

cdef extern from "<fcntl.h>" nogil:
    const int FALLOC_FL_KEEP_SIZE
    const int FALLOC_FL_PUNCH_HOLE

cdef extern from "<linux/io_uring.h>" nogil:
    struct io_sqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array

    struct io_cqring_offsets:
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes

    struct io_uring_params:
        uint32_t sq_entries, cq_entries, flags
        io_sqring_offsets sq_off
        io_cqring_offsets cq_off

    struct io_uring_sqe:
        uint8_t opcode
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t fsync_flags
        uint32_t poll32_events
        uint64_t user_data

    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags

    const int IORING_OP_READV
    const int IORING_OP_WRITEV
    const int IORING_OP_READ
    const int IORING_OP_WRITE
    const int IORING_OP_FSYNC
    const int IORING_OP_FALLOCATE
    const int IORING_OP_POLL_ADD
    const int IORING_FSYNC_DATASYNC
    const int IORING_ENTER_GETEVENTS
    const int IORING_POLL_ADD_MULTI
    const int IORING_CQE_F_MORE
    const int IORING_SETUP_R_DISABLED
    const int IORING_SETUP_SINGLE_ISSUER
    const int IORING_SETUP_DEFER_TASKRUN
    const int IORING_REGISTER_ENABLE_RINGS
    const int64_t IORING_OFF_SQ_RING
    const int64_t IORING_OFF_SQES

cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>

    static inline int uring_setup(unsigned entries, struct io_uring_params *params)
    {
        return syscall(SYS_io_uring_setup, entries, params);
    }
    static inline int uring_enter(int fd, unsigned submit, unsigned wait, unsigned flags)
    {
        return syscall(SYS_io_uring_enter, fd, submit, wait, flags, NULL, 0);
    }
    static inline int uring_enable(int fd)
    {
        return syscall(SYS_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    }
    static inline uint32_t uring_load(const uint32_t *p)
    {
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);
    }
    static inline void uring_store(uint32_t *p, uint32_t value)
    {
        __atomic_store_n(p, value, __ATOMIC_RELEASE);
    }
    """
    int uring_setup(unsigned int entries, io_uring_params *params) noexcept nogil
    int uring_enter(int fd, unsigned int submit, unsigned int wait,
                    unsigned int flags) noexcept nogil
    int uring_enable(int fd) noexcept nogil
    uint32_t uring_load(const uint32_t *p) noexcept nogil
    void uring_store(uint32_t *p, uint32_t value) noexcept nogil


cdef enum:
    # The size of a batch: the device starts on one while the next is prepared.
    BATCH = 8


cdef class UringEngine(Engine):
    """Works on the file `fd`, with at most `depth` operations at a time; raises OSError if this
    host has no io_uring or does not allow it."""

    cdef int _fd, _ring
    cdef uint8_t *_rings
    cdef size_t _rings_size
    cdef io_uring_sqe *_sqes
    cdef size_t _sqes_size
    cdef uint32_t *_sq_tail
    cdef uint32_t *_sq_array
    cdef uint32_t *_cq_head
    cdef uint32_t *_cq_tail
    cdef io_uring_cqe *_cqes
    cdef uint32_t _sq_mask, _cq_mask, _unsubmitted
    cdef bint _enabled, _listening

    def __cinit__(self, int fd, int doorbell, unsigned int depth):
        self._ring = -1
        self._rings = NULL
        self._sqes = NULL
        self._fd, self.doorbell = fd, doorbell
        cdef io_uring_params params
        memset(&params, 0, sizeof(params))
        # The first thread that uses the ring must be the only one. The constructor runs in
        # another, so the ring starts disabled.
        params.flags = (IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER
                        | IORING_SETUP_DEFER_TASKRUN)
        # One more entry, for the doorbell.
        self._ring = uring_setup(depth + 1, &params)
        if self._ring < 0:
            raise OSError(errno, os.strerror(errno))
        self._rings_size = max(
            params.sq_off.array + params.sq_entries * sizeof(uint32_t),
            params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe))
        cdef void *where = mmap(NULL, self._rings_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                                self._ring, IORING_OFF_SQ_RING)
        if where == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self._rings = <uint8_t *>where
        self._sqes_size = params.sq_entries * sizeof(io_uring_sqe)
        where = mmap(NULL, self._sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED, self._ring,
                     IORING_OFF_SQES)
        if where == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self._sqes = <io_uring_sqe *>where
        self._sq_tail = <uint32_t *>(self._rings + params.sq_off.tail)
        self._sq_array = <uint32_t *>(self._rings + params.sq_off.array)
        self._cq_head = <uint32_t *>(self._rings + params.cq_off.head)
        self._cq_tail = <uint32_t *>(self._rings + params.cq_off.tail)
        self._cqes = <io_uring_cqe *>(self._rings + params.cq_off.cqes)
        self._sq_mask = params.sq_entries - 1
        self._cq_mask = params.cq_entries - 1

    def __dealloc__(self):
        self._release()

    def close(self):
        self._release()

    cdef void _release(self) noexcept:
        if self._sqes != NULL:
            munmap(self._sqes, self._sqes_size)
            self._sqes = NULL
        if self._rings != NULL:
            munmap(self._rings, self._rings_size)
            self._rings = NULL
        if self._ring >= 0:
            close(self._ring)
            self._ring = -1

    cdef io_uring_sqe *_sqe(self, int opcode, int fd, Op *op) noexcept nogil:
        """The next submission entry; there always is one, as the ring has room for every
        operation."""
        cdef uint32_t tail = self._sq_tail[0]
        cdef io_uring_sqe *sqe = &self._sqes[tail & self._sq_mask]
        memset(sqe, 0, sizeof(io_uring_sqe))
        sqe.opcode = opcode
        sqe.fd = fd
        sqe.user_data = <uint64_t>op
        self._sq_array[tail & self._sq_mask] = tail & self._sq_mask
        uring_store(self._sq_tail, tail + 1)
        self._unsubmitted += 1
        return sqe

    cdef void submit(self, Op *op) noexcept nogil:
        self._describe(op)
        if self._unsubmitted >= BATCH:
            self._enter(False)

    cdef void _describe(self, Op *op) noexcept nogil:
        cdef io_uring_sqe *sqe
        cdef iovec *parts = &op.iov[op.iov_first]
        if op.kind == OP_READ or op.kind == OP_WRITE:
            if op.iov_count == 1:
                # A list would have to be copied by the kernel.
                sqe = self._sqe(IORING_OP_READ if op.kind == OP_READ else IORING_OP_WRITE,
                                self._fd, op)
                sqe.addr, sqe.len = <uint64_t>parts.iov_base, <uint32_t>parts.iov_len
            else:
                sqe = self._sqe(IORING_OP_READV if op.kind == OP_READ else IORING_OP_WRITEV,
                                self._fd, op)
                sqe.addr, sqe.len = <uint64_t>parts, op.iov_count
            sqe.off = op.offset
        elif op.kind == OP_FLUSH:
            sqe = self._sqe(IORING_OP_FSYNC, self._fd, op)
            sqe.fsync_flags = IORING_FSYNC_DATASYNC
        elif op.kind == OP_DISCARD:
            sqe = self._sqe(IORING_OP_FALLOCATE, self._fd, op)
            sqe.len = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
            sqe.off = op.offset
            sqe.addr = op.left

    cdef Op *reap(self, bint wait) noexcept nogil:
        cdef io_uring_sqe *sqe
        if not self._listening:
            self._listening = True
            sqe = self._sqe(IORING_OP_POLL_ADD, self.doorbell, NULL)
            sqe.poll32_events = POLLIN
            sqe.len = IORING_POLL_ADD_MULTI
        # The doorbell's completion may be among them.
        wait = self._harvest() == 0 and wait
        while True:
            if not self._enter(wait):
                break
            if self._harvest():
                wait = False
            if not self._unsubmitted and not wait:
                break
        return self.finished()

    cdef bint _enter(self, bint wait) noexcept nogil:
        """Submit the described operations and have the kernel post completions, at least one if
        `wait`; return False on a permanent error."""
        cdef int count
        if not self._enabled:
            self._enabled = True
            uring_enable(self._ring)
        self.syscalls += 1
        count = uring_enter(self._ring, self._unsubmitted, wait, IORING_ENTER_GETEVENTS)
        if count < 0:
            return errno in (EINTR, EAGAIN, EBUSY)
        self._unsubmitted -= <uint32_t>count
        return True

    cdef int _harvest(self) noexcept nogil:
        """Take all completions and return their number."""
        cdef uint32_t head = self._cq_head[0]
        cdef uint32_t tail = uring_load(self._cq_tail)
        cdef int count = <int>(tail - head)
        cdef io_uring_cqe cqe
        while head != tail:
            cqe = self._cqes[head & self._cq_mask]
            head += 1
            uring_store(self._cq_head, head)
            if cqe.user_data:
                self._completed(<Op *>cqe.user_data, cqe.res)
            else:
                # The poll reports every ring, so the doorbell need not be read.
                self._listening = cqe.flags & IORING_CQE_F_MORE != 0
        return count

    cdef void _completed(self, Op *op, int result) noexcept nogil:
        if result == -EINTR or result == -EAGAIN:
            self.submit(op)
        elif result < 0:
            self.finish(op, -result)
        elif op.kind == OP_FLUSH or op.kind == OP_DISCARD:
            self.finish(op, 0)
        elif result == 0 or <uint64_t>result > op.left:
            # The image has shrunk.
            self.finish(op, EIO)
        else:
            advance(op, result)
            if op.left:
                self.submit(op)
            else:
                self.finish(op, 0)
