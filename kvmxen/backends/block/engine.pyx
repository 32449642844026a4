"""Engines carry out a disk's reads, writes, flushes and discards for one queue's thread.

They run without the GIL, and move data directly between the image and the guest's memory.
"""

from libc.stdint cimport uint64_t
from posix.unistd cimport read


cdef void advance(Op *op, uint64_t count) noexcept nogil:
    """Record that `count` more bytes of `op` are done."""
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
    """Takes operations by `submit` and returns them by `reap`, in any order; the doorbell ends a
    wait too.

    An engine serves one queue and is used by that queue's thread alone.
    """

    cdef void submit(self, Op *op) noexcept nogil:
        """Take `op`, which belongs to the engine until it is reaped. It may not start before the
        next `reap`."""
        pass

    cdef Op *reap(self, bint wait) noexcept nogil:
        """The finished operations, linked. If there are none and `wait`, wait for one or for the
        doorbell."""
        return NULL

    def close(self):
        """Release the engine's resources; submit nothing afterwards."""

    # For subclasses.

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
