"""Converts bytes to messages and back: struct xsd_sockmsg and its payload (io/xs_wire.h)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from struct import Struct
from typing import NamedTuple

from kvmxen.xen.abi.xs_wire import PAYLOAD_MAX
from kvmxen.xenstore.errors import ProtocolError

cdef extern from "<endian.h>" nogil:
    uint32_t htole32(uint32_t)
    uint32_t le32toh(uint32_t)

HEADER = Struct("<IIII")

cdef enum:
    HEADER_SIZE = 16

cdef uint32_t _PAYLOAD_MAX = PAYLOAD_MAX


class Message(NamedTuple):
    """One request, reply or event; `type` is an abi.xs_wire.Operation, or whatever a client
    sent."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def encode(self):
        """The message in wire form."""
        return pack(self.type, self.req_id, self.tx_id, self.payload)


cdef bytes pack(uint32_t type, uint32_t req_id, uint32_t tx_id, bytes payload):
    """A message in wire form."""
    cdef uint32_t length = <uint32_t>len(payload)
    cdef bytes message = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + length)
    cdef uint32_t[4] header = [htole32(type), htole32(req_id), htole32(tx_id), htole32(length)]
    cdef char *to = PyBytes_AS_STRING(message)
    memcpy(to, header, HEADER_SIZE)
    memcpy(to + HEADER_SIZE, PyBytes_AS_STRING(payload), length)
    return message


cdef class Parser:
    """Cuts a byte stream into messages, however it was fragmented.

    Either call feed(), or call append() and advance() and read `type`, `req_id`, `tx_id` and
    `payload`.
    """

    def __cinit__(self):
        self._buffer = bytearray()

    def feed(self, data):
        """Take in `data` and yield the complete messages; consume the iterator whole.

        Raises as advance() does, after the messages before it.
        """
        self.append(data)
        while self.advance():
            yield Message(self.type, self.req_id, self.tx_id, self.payload)

    @property
    def rest(self):
        """The bytes of an incomplete message."""
        return bytes(self._buffer[self._start:])

    cpdef append(self, data):
        """Take in `data`."""
        self._buffer += data

    cpdef bint advance(self) except -1:
        """Advance to the next message; return whether there is a complete one.

        Raises ProtocolError at a header that announces more than PAYLOAD_MAX bytes: the rest of
        the stream has no meaning.
        """
        cdef Py_ssize_t available = len(self._buffer) - self._start
        cdef const char *at = <const char *>self._buffer + self._start
        cdef uint32_t[4] header
        cdef uint32_t length
        if available >= HEADER_SIZE:
            memcpy(header, at, HEADER_SIZE)
            length = le32toh(header[3])
            if length > _PAYLOAD_MAX:
                raise ProtocolError(f"a payload of {length} bytes")
            if available >= HEADER_SIZE + <Py_ssize_t>length:
                self.type = le32toh(header[0])
                self.req_id = le32toh(header[1])
                self.tx_id = le32toh(header[2])
                self.payload = at[HEADER_SIZE:HEADER_SIZE + length]
                self._start += HEADER_SIZE + length
                return True
        # Drop the bytes of all messages of a portion at once.
        if self._start:
            del self._buffer[:self._start]
            self._start = 0
        return False
