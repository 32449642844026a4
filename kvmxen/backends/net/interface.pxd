from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kvmxen.backends.net.link cimport Link
from kvmxen.backends.net.packet cimport Packet

cdef enum:
    MAX_QUEUES = 16


cdef class Credit:
    cdef readonly int64_t bytes
    cdef readonly int64_t period
    cdef int64_t _left
    cdef int64_t _renewed
    cdef int64_t wait(self) noexcept nogil
    cdef void spend(self, int64_t size) noexcept nogil


cdef class Interface:
    cdef readonly Link link
    cdef readonly list queues
    cdef Credit _credit
    cdef object _doorbell, _broken
    cdef PyObject *_queues[MAX_QUEUES]
    cdef int _count
    cdef int _event
    # The sum of what was read from the doorbell.
    cdef uint64_t _rings
    cdef public uint32_t longest
    cdef uint8_t *_buffer
    # The packet for the link, valid if `_holding`, and the packet for queue `_target`, valid
    # unless that is -1.
    cdef Packet _outbound
    cdef bint _holding
    cdef Packet _inbound
    cdef int _target
    cdef bint _stopping
    # What stopped a round.
    cdef bint _link_full
    cdef int64_t _throttled
    cdef readonly uint64_t wakeups
    cdef readonly uint64_t notifications
    cdef readonly uint64_t filtered
    cdef readonly uint64_t dropped
    cdef int _round(self) noexcept nogil
    cdef int _transmit(self, int index) noexcept nogil
    cdef bint _pass_on(self) noexcept nogil
    cdef int _receive(self) noexcept nogil
    cdef bint _next(self) noexcept nogil
    cdef bint _notify(self) except -1
    cdef void _sleep(self) noexcept nogil
