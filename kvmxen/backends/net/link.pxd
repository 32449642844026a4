from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kvmxen.backends.net.packet cimport Packet

cdef enum:
    LINK_SENT = 1
    # Not now: wait until `fd` is writable.
    LINK_FULL = 0
    # This packet cannot be sent.
    LINK_DROPPED = -1

    LINK_PACKET = 1
    LINK_NONE = 0
    LINK_ENDED = -1


cdef class Link:
    cdef readonly int fd
    cdef readonly uint64_t syscalls
    cdef readonly uint64_t copied
    cdef readonly uint64_t segments
    cdef readonly bint ended
    cdef int send(self, Packet *packet) noexcept nogil
    cdef bint flush(self) noexcept nogil
    cdef int receive(self, Packet *packet) noexcept nogil


cdef class StreamLink(Link):
    cdef uint8_t *_out
    cdef uint8_t *_in
    # Bytes [begin, end) of each buffer are in use; a message that was sent in part ends at
    # `_out_piece`.
    cdef uint32_t _out_begin, _out_piece, _out_end, _in_begin, _in_end
    cdef void _append(self, const uint8_t *frame, uint32_t length) noexcept nogil
    cdef uint32_t _end_of_piece(self, uint32_t begin) noexcept nogil
    cdef bint _fill(self) noexcept nogil


cdef class TapLink(Link):
    cdef uint8_t *_buffer
