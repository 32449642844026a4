"""The backend's end of a ring of requests and responses (xen/include/public/io/ring.h).

Indices are free-running 32-bit counts. This end keeps its own private and only publishes them; it
loads each of the frontend's once per operation and checks it before use. It copies a request out
of shared memory once, and examines only the copy. An impossible index breaks the ring permanently.

Only one thread at a time may use the C methods of a ring, which run without the GIL.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from kvmxen.kvm.memory cimport Window
from kvmxen.xen.abi.io cimport (
    RING_ENTRIES, RING_REQ_EVENT, RING_REQ_PROD, RING_RSP_EVENT, RING_RSP_PROD)

from kvmxen.xen.abi.ring import ring_size

cdef extern from *:
    """
    static inline uint32_t index_load(const uint8_t *ring, int offset)
    {
        return __atomic_load_n((const uint32_t *)(ring + offset), __ATOMIC_SEQ_CST);
    }

    /* Sequentially consistent: the peer's side is looked at right after. */
    static inline void index_store(uint8_t *ring, int offset, uint32_t value)
    {
        __atomic_store_n((uint32_t *)(ring + offset), value, __ATOMIC_SEQ_CST);
    }
    """
    uint32_t index_load(const uint8_t *ring, int offset) noexcept nogil
    void index_store(uint8_t *ring, int offset, uint32_t value) noexcept nogil


cdef class BackRing:
    """The ring in `window`, with entries for `request_size` and `response_size` bytes.

    It starts where the ring says that the last backend stopped (BACK_RING_ATTACH()).
    """

    def __cinit__(self, Window window, uint32_t request_size, uint32_t response_size):
        self.window = window
        self.shared = window.base
        self.request_size = request_size
        self.response_size = response_size
        self.entry_size = max(request_size, response_size)
        self.size = ring_size(window.size, self.entry_size)
        self.broken = False
        self.req_cons = self.rsp_prod = self.rsp_pushed = index_load(self.shared, RING_RSP_PROD)

    cdef uint8_t *entry(self, uint32_t index) noexcept nogil:
        return self.shared + RING_ENTRIES + (index & (self.size - 1)) * self.entry_size

    cdef int waiting(self) noexcept nogil:
        """The number of requests to take, at most `size`; or RING_BROKEN."""
        cdef uint32_t prod = index_load(self.shared, RING_REQ_PROD)
        # A request that was taken and not answered still occupies its entry.
        if prod - self.rsp_prod > self.size or prod - self.req_cons > self.size:
            self.broken = True
        if self.broken:
            return RING_BROKEN
        return <int>(prod - self.req_cons)

    cdef int take(self, void *request) noexcept nogil:
        """Copy the next request's `request_size` bytes; return RING_TAKEN, RING_EMPTY or
        RING_BROKEN."""
        cdef int count = self.waiting()
        if count <= 0:
            return count
        memcpy(request, self.entry(self.req_cons), self.request_size)
        self.req_cons += 1
        return RING_TAKEN

    cdef int more(self, uint32_t wanted=1) noexcept nogil:
        """The same as `waiting`; if fewer than `wanted`, ask the frontend for an event with its
        next."""
        cdef int count = self.waiting()
        if count < 0 or <uint32_t>count >= wanted:
            return count
        index_store(self.shared, RING_REQ_EVENT, self.req_cons + <uint32_t>count + 1)
        return self.waiting()

    cdef void put(self, const void *response) noexcept nogil:
        """Put a response of `response_size` bytes in place of the oldest taken request, which
        must exist. The frontend sees it after `push`."""
        memcpy(self.entry(self.rsp_prod), response, self.response_size)
        self.rsp_prod += 1

    cdef bint push(self) noexcept nogil:
        """Publish the responses; return whether the frontend wants an event."""
        cdef uint32_t old = self.rsp_pushed
        if old == self.rsp_prod:
            return False
        self.rsp_pushed = self.rsp_prod
        index_store(self.shared, RING_RSP_PROD, self.rsp_prod)
        return self.rsp_prod - index_load(self.shared, RING_RSP_EVENT) < self.rsp_prod - old

    @property
    def pending(self):
        """The number of requests whose responses the frontend does not see yet; callable from
        any thread."""
        return <uint32_t>(
            index_load(self.shared, RING_REQ_PROD) - index_load(self.shared, RING_RSP_PROD))
