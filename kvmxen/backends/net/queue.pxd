from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvmxen.backends.net.packet cimport Packet
from kvmxen.xen.grants cimport GrantTable
from kvmxen.ring.shared_ring cimport BackRing

cdef enum:
    FETCH_NONE = 0
    FETCH_PACKET = 1
    # Not a packet to send on: a dropped packet, or a message.
    FETCH_OTHER = 2
    FETCH_BROKEN = -1

    # The number of entries that fit in a page.
    RING_ENTRIES = 256
    # The most addresses in the multicast filter (XEN_NETBK_MCAST_MAX).
    MAX_ADDRESSES = 64


cdef struct Answer:
    uint16_t id
    int16_t status


cdef struct Slot:
    uint32_t gref
    uint16_t offset
    uint16_t flags
    uint16_t id
    uint16_t size


# Counts as the guest sees them: it transmits (tx) and receives (rx).
cdef struct Counters:
    uint64_t tx_packets
    uint64_t tx_bytes
    uint64_t tx_gso
    uint64_t tx_errors
    uint64_t rx_packets
    uint64_t rx_bytes
    uint64_t rx_gso
    uint64_t rx_errors


cdef class MulticastFilter:
    cdef uint8_t _addresses[MAX_ADDRESSES][6]
    cdef readonly int count
    cdef public bint enabled
    cdef bint passes(self, const uint8_t *address) noexcept nogil
    cdef int find(self, const uint8_t *address) noexcept nogil
    cdef int16_t add(self, const uint8_t *address) noexcept nogil
    cdef int16_t remove(self, const uint8_t *address) noexcept nogil


cdef class NetQueue:
    cdef GrantTable grants
    cdef BackRing tx
    cdef BackRing rx
    cdef MulticastFilter filter
    cdef Counters counters
    cdef uint64_t copied
    cdef Answer _answers[RING_ENTRIES]
    cdef uint32_t _taken
    cdef public object notify_tx
    cdef public object notify_rx
    cdef bint tx_event
    cdef bint rx_event
    cdef int fetch(self, Packet *packet) noexcept nogil
    cdef int room(self, const Packet *packet) noexcept nogil
    cdef void deliver(self, const Packet *packet) noexcept nogil
    cdef void push(self) noexcept nogil
    cdef bint _answer(self, uint16_t id_, int16_t status) noexcept nogil
    cdef int _extras(self, Packet *packet, bint *sound) noexcept nogil
    cdef bint _gather(self, Packet *packet, const Slot *slots, uint32_t count) noexcept nogil
