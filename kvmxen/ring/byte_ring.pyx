"""One direction of a shared ring of bytes: the console's and xenstore's rings are two each.

Indices are free-running 32-bit byte counts; byte `i` of the stream lies at `i % size`. Each half
keeps its own index private and only publishes it, so the guest's changes to the shared copy have
no effect here. It loads the guest's index once per operation and checks it before use
(xen/include/public/io/xs_wire.h, io/console.h; docs/misc/xenstore-ring.txt).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kvmxen.kvm.memory cimport GuestMemory


cdef extern from *:
    """
    static inline uint32_t ring_load(const uint32_t *index)
    {
        return __atomic_load_n(index, __ATOMIC_ACQUIRE);
    }

    /* Sequentially consistent: the peer's index may be looked at right after. */
    static inline void ring_publish(uint32_t *index, uint32_t value)
    {
        __atomic_store_n(index, value, __ATOMIC_SEQ_CST);
    }
    """
    uint32_t ring_load(const uint32_t *index) noexcept nogil
    void ring_publish(uint32_t *index, uint32_t value) noexcept nogil


class RingBroken(Exception):
    """The guest's index claims that the ring holds more than fits."""


cdef class RingHalf:
    """The part that both directions share: the places of the bytes and of the two indices in
    guest memory."""

    def __cinit__(self, GuestMemory memory, uint64_t data_gpa, uint32_t size,
                  uint64_t cons_gpa, uint64_t prod_gpa):
        if size == 0 or size & (size - 1):
            raise ValueError(f"a ring's size is a power of two, not {size}")
        self.memory = memory
        self.size = size
        self.data = memory.at(data_gpa, size)
        self.shared_cons = <uint32_t *>memory.at(cons_gpa, 4)
        self.shared_prod = <uint32_t *>memory.at(prod_gpa, 4)

    def reset(self):
        """Empty the ring: set both indices to 0. Only for a peer that waits for it
        (reconnection)."""
        self.own = 0
        ring_publish(self.shared_cons, 0)
        ring_publish(self.shared_prod, 0)


cdef class RingReader(RingHalf):
    """The half that the guest produces and this process consumes.

    `size` is in bytes, a power of two; the `*_gpa` are byte addresses, those of the indices
    aligned to 4. It starts at the consumer index in the ring. Raises GuestFault if an address is
    not the guest's.
    """

    def __init__(self, memory, data_gpa, size, cons_gpa, prod_gpa):
        self.own = ring_load(self.shared_cons)

    cdef int64_t available(self) except -1:
        cdef uint32_t used = ring_load(self.shared_prod) - self.own
        if used > self.size:
            raise RingBroken(f"{used} bytes in a ring of {self.size}")
        return used

    @property
    def pending(self):
        """The number of bytes waiting to be read; raises RingBroken."""
        return self.available()

    def read(self, uint32_t limit):
        """Take at most `limit` bytes out of the ring; on RingBroken it takes none."""
        cdef uint32_t count = min(<uint32_t>self.available(), limit)
        cdef uint32_t start = self.own & (self.size - 1)
        cdef uint32_t first = min(count, self.size - start)
        cdef bytes taken = PyBytes_FromStringAndSize(NULL, count)
        cdef char *to = PyBytes_AS_STRING(taken)
        memcpy(to, self.data + start, first)
        memcpy(to + first, self.data, count - first)
        if count:
            self.own += count
            ring_publish(self.shared_cons, self.own)
        return taken


cdef class RingWriter(RingHalf):
    """The half that this process produces and the guest consumes; arguments as for RingReader.

    It starts at the producer index in the ring.
    """

    def __init__(self, memory, data_gpa, size, cons_gpa, prod_gpa):
        self.own = ring_load(self.shared_prod)

    cdef int64_t room(self) except -1:
        cdef uint32_t used = self.own - ring_load(self.shared_cons)
        if used > self.size:
            raise RingBroken(f"{used} bytes in a ring of {self.size}")
        return self.size - used

    @property
    def free(self):
        """The number of bytes that can be written; raises RingBroken."""
        return self.room()

    def write(self, const uint8_t[::1] data):
        """Put as much of `data` as fits into the ring and return the number of bytes.

        Raises RingBroken, and then writes nothing.
        """
        cdef uint32_t count = <uint32_t>min(self.room(), <int64_t>data.shape[0])
        cdef uint32_t start = self.own & (self.size - 1)
        cdef uint32_t first = min(count, self.size - start)
        if count:
            memcpy(self.data + start, &data[0], first)
            memcpy(self.data, &data[0] + first, count - first)
            self.own += count
            ring_publish(self.shared_prod, self.own)
        return count
