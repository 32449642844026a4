from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef enum:
    # The most segments of one request, with its segments in a page of their own.
    MAX_SEGMENTS = 256

cdef enum:
    OP_READ
    OP_WRITE
    OP_FLUSH
    OP_DISCARD


# One operation. `offset` and `left` are in bytes; an engine advances them, and the first of the
# iovecs, as it proceeds. `error` is an errno, or 0 on success.
cdef struct Op:
    Op *next
    int kind
    int error
    uint64_t offset
    uint64_t left
    uint32_t iov_first
    uint32_t iov_count
    iovec iov[MAX_SEGMENTS]


cdef void advance(Op *op, uint64_t count) noexcept nogil


cdef class Engine:
    cdef int doorbell
    cdef uint64_t syscalls
    # The sum of what was read from the doorbell.
    cdef uint64_t rings
    cdef Op *done
    cdef void submit(self, Op *op) noexcept nogil
    cdef Op *reap(self, bint wait) noexcept nogil
    cdef void finish(self, Op *op, int error) noexcept nogil
    cdef Op *finished(self) noexcept nogil
    cdef void drain_doorbell(self) noexcept nogil
