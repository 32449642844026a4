"""BackRing's C methods, for tests in Python."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t

from kvmxen.ring.shared_ring cimport RING_BROKEN, RING_TAKEN, BackRing

from kvmxen.ring.byte_ring import RingBroken


cdef class PythonRing(BackRing):
    @property
    def unanswered(self):
        """The number of taken requests without a response."""
        return <uint32_t>(self.req_cons - self.rsp_prod)

    def request(self):
        """A private copy of the next request, or None; raises RingBroken."""
        cdef bytes taken = PyBytes_FromStringAndSize(NULL, self.request_size)
        cdef int result = self.take(PyBytes_AS_STRING(taken))
        if result == RING_BROKEN:
            raise RingBroken(f"more than {self.size} requests in a ring of {self.size}")
        return taken if result == RING_TAKEN else None

    def final_check(self):
        """Whether there is a request; if not, ask for an event with the next. Raises RingBroken."""
        cdef int result = self.more()
        if result == RING_BROKEN:
            raise RingBroken(f"more than {self.size} requests in a ring of {self.size}")
        return result > 0

    def respond(self, const uint8_t[::1] response):
        """Answer a taken request with `response_size` bytes."""
        assert <uint32_t>response.shape[0] == self.response_size
        assert self.rsp_prod != self.req_cons, "there is no request to respond to"
        self.put(&response[0])

    def push_responses(self):
        """Publish the responses; return whether the frontend wants an event."""
        return self.push()
