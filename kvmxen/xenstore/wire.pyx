"""Bytes to messages and back: struct xsd_sockmsg followed by its payload (io/xs_wire.h)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from struct import Struct
from typing import NamedTuple

from kvmxen.abi.xs_wire import PAYLOAD_MAX
from kvmxen.xenstore.errors import ProtocolError

cdef extern from "<endian.h>" nogil:
    uint32_t htole32(uint32_t)
    uint32_t le32toh(uint32_t)

HEADER = Struct("<IIII")

cdef enum:
    HEADER_SIZE = 16

cdef uint32_t _PAYLOAD_MAX = PAYLOAD_MAX


class Message(NamedTuple):
    """One request, reply or event; `type` is an abi.xs_wire.Operation, or what a client sent."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def encode(self):
        """The message as it travels."""
        return pack(self.type, self.req_id, self.tx_id, self.payload)


cdef bytes pack(uint32_t type, uint32_t req_id, uint32_t tx_id, bytes payload):
    """A message as it travels."""
    cdef uint32_t length = <uint32_t>len(payload)
    cdef bytes message = PyBytes_FromStringAndSize(NULL, HEADER_SIZE + length)
    cdef uint32_t[4] header = [htole32(type), htole32(req_id), htole32(tx_id), htole32(length)]
    cdef char *to = PyBytes_AS_STRING(message)
    memcpy(to, header, HEADER_SIZE)
    memcpy(to + HEADER_SIZE, PyBytes_AS_STRING(payload), length)
    return message


cdef class Parser:
    """Cuts a byte stream into messages, however it was fragmented.

    Either feed() it, or append() and advance() and look at `type`, `req_id`, `tx_id` and
    `payload`.
    """

    def __cinit__(self):
        self._buffer = bytearray()

    def feed(self, data):
        """Take `data` in and yield the messages that are complete; consume the iterator whole.

        Raises as advance(), after the messages before it.
        """
        self.append(data)
        while self.advance():
            yield Message(self.type, self.req_id, self.tx_id, self.payload)

    @property
    def rest(self):
        """The bytes of a message that is not whole yet."""
        return bytes(self._buffer[self._start:])

    cpdef append(self, data):
        """Take `data` in."""
        self._buffer += data

    cpdef bint advance(self) except -1:
        """Go on to the next message; returns whether there is one whole.

        Raises ProtocolError at a header that announces more than PAYLOAD_MAX bytes: from there
        on the stream has no meaning.
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
        # What was read goes at once for all messages of a portion.
        if self._start:
            del self._buffer[:self._start]
            self._start = 0
        return False
