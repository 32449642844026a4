"""What carries out a disk's reads, writes, flushes and discards, for one queue's thread.

All is without the GIL, and the data goes straight between the image and the guest's memory.
"""

from libc.stdint cimport uint64_t
from posix.unistd cimport read


cdef void advance(Op *op, uint64_t count) noexcept nogil:
    """`count` more bytes of `op` are done."""
    cdef iovec *part
    op.offset += count
    op.left -= count
    while count:
        part = &op.iov[op.iov_first]
        if count < part.iov_len:
            part.iov_base = <char *>part.iov_base + count
            part.iov_len -= count
            return
        count -= part.iov_len
        op.iov_first += 1
        op.iov_count -= 1


cdef class Engine:
    """Submit operations, then reap them, in any order; `doorbell` ends a wait too.

    Made for one queue, used by its thread alone.
    """

    cdef void submit(self, Op *op) noexcept nogil:
        """Take `op`, which stays the engine's until it is reaped. It may start only with the
        next reaping."""
        pass

    cdef Op *reap(self, bint wait) noexcept nogil:
        """Those that are done, linked; `wait` for one, or for the doorbell, where there is none."""
        return NULL

    def close(self):
        """Let go of what the engine has; nothing is submitted any more."""

    # For those that derive from it.

    cdef void finish(self, Op *op, int error) noexcept nogil:
        op.error = error
        op.next = self.done
        self.done = op

    cdef Op *finished(self) noexcept nogil:
        cdef Op *done = self.done
        self.done = NULL
        return done

    cdef void drain_doorbell(self) noexcept nogil:
        cdef uint64_t value = 0
        self.syscalls += 1
        if read(self.doorbell, &value, sizeof(value)) > 0:
            self.rings += value
