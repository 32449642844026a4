"""A queue of a network interface: it takes packets from one ring and puts packets into another.

A packet consists of slots, each with a granted page, and may have extra information in slots of
its own. A slot is copied once, then checked, then used; so is the packet. A malformed packet is
answered with an error and dropped. Only an impossible ring index, or a packet without an end,
breaks the queue.

Source: xen/include/public/io/netif.h; it refuses what Linux's drivers/net/xen-netback refuses, in
the same way.
"""

from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from kvmxen.xen.abi.io cimport (
    NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETRXF_csum_blank, NETRXF_data_validated,
    NETRXF_extra_info, NETRXF_more_data, NETTXF_csum_blank, NETTXF_data_validated,
    NETTXF_extra_info, NETTXF_more_data, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_GSO_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
)
from kvmxen.backends.net.packet cimport Packet, is_sound
from kvmxen.xen.abi.xen cimport GNTST_okay
from kvmxen.xen.grants cimport GrantTable
from kvmxen.ring.shared_ring cimport RING_TAKEN, BackRing

from kvmxen.kvm.layout import PAGE_SIZE

cdef enum:
    PAGE = 4096
    ETHERNET = 14
    # The limit for older frontends; today's need at most XEN_NETIF_NR_SLOTS_MIN (18).
    MAX_SLOTS = 20

assert PAGE == PAGE_SIZE


cdef struct Extra:
    uint8_t type
    uint8_t flags
    # For GSO. For MCAST_ADD and MCAST_DEL, the six bytes from here on are an address.
    uint16_t gso_size
    uint8_t gso_type
    uint8_t pad
    uint16_t features


# An extra takes the place of a request.
cdef union Entry:
    Slot slot
    Extra extra


cdef struct RxRequest:
    uint16_t id
    uint16_t pad
    uint32_t gref


cdef struct RxResponse:
    uint16_t id
    uint16_t offset
    uint16_t flags
    int16_t status


cdef union RxEntry:
    RxResponse response
    Extra extra


cdef class MulticastFilter:
    """The multicast addresses that the guest wants, once it has asked for fewer than all."""

    cdef bint passes(self, const uint8_t *address) noexcept nogil:
        """Whether the guest receives packets for `address`; it receives every broadcast."""
        cdef uint8_t *broadcast = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
        if not self.enabled or not address[0] & 1 or memcmp(address, broadcast, 6) == 0:
            return True
        return self.find(address) >= 0

    cdef int find(self, const uint8_t *address) noexcept nogil:
        cdef int i
        for i in range(self.count):
            if memcmp(self._addresses[i], address, 6) == 0:
                return i
        return -1

    cdef int16_t add(self, const uint8_t *address) noexcept nogil:
        if self.find(address) < 0:
            if self.count == MAX_ADDRESSES:
                return NETIF_RSP_ERROR
            memcpy(self._addresses[self.count], address, 6)
            self.count += 1
        return NETIF_RSP_OKAY

    cdef int16_t remove(self, const uint8_t *address) noexcept nogil:
        cdef int at = self.find(address)
        if at >= 0:
            self.count -= 1
            memcpy(self._addresses[at], self._addresses[self.count], 6)
        return NETIF_RSP_OKAY


cdef class NetQueue:
    """The rings `tx` and `rx` over `grants`; `notify_tx()` and `notify_rx()` send their events.

    Only one thread may use it at a time.
    """

    def __cinit__(self, GrantTable grants, BackRing tx, BackRing rx, MulticastFilter multicast,
                  notify_tx, notify_rx):
        # The array of answers has RING_ENTRIES.
        assert tx.size <= RING_ENTRIES
        self.grants = grants
        self.tx, self.rx = tx, rx
        self.filter = multicast
        self.notify_tx, self.notify_rx = notify_tx, notify_rx

    # From the guest.

    cdef int fetch(self, Packet *packet) noexcept nogil:
        """Copy the guest's next packet to `packet.data`, which has room for MAX_PACKET bytes;
        return FETCH_*.

        The guest sees the responses after `push`.
        """
        cdef Slot slots[MAX_SLOTS]
        cdef Slot slot
        cdef uint32_t count = 1
        cdef uint32_t i
        cdef int16_t status = NETIF_RSP_OKAY
        cdef int kind = FETCH_PACKET
        cdef bint sound = True
        self._taken = 0
        if self.tx.take(&slots[0]) != RING_TAKEN:
            return FETCH_BROKEN if self.tx.broken else FETCH_NONE
        self._answer(slots[0].id, NETIF_RSP_OKAY)
        packet.gso_type, packet.gso_size = XEN_NETIF_GSO_TYPE_NONE, 0
        if slots[0].flags & NETTXF_extra_info:
            kind = self._extras(packet, &sound)
        slot = slots[0]
        while kind != FETCH_BROKEN and slot.flags & NETTXF_more_data:
            if self.tx.take(&slot) != RING_TAKEN:
                kind = FETCH_BROKEN
                break
            self._answer(slot.id, NETIF_RSP_OKAY)
            if count < MAX_SLOTS:
                slots[count] = slot
            count += 1
        if kind == FETCH_BROKEN:
            self.counters.tx_errors += 1
            return kind
        packet.blank = slots[0].flags & NETTXF_csum_blank != 0
        packet.validated = slots[0].flags & NETTXF_data_validated != 0
        if not sound or kind == FETCH_PACKET and not (
                count <= MAX_SLOTS and self._gather(packet, slots, count) and is_sound(packet)):
            kind, status = FETCH_OTHER, NETIF_RSP_ERROR
            self.counters.tx_errors += 1
        elif kind == FETCH_PACKET:
            self.counters.tx_packets += 1
            self.counters.tx_bytes += packet.length
            self.counters.tx_gso += packet.gso_type != XEN_NETIF_GSO_TYPE_NONE
        for i in range(self._taken):
            if self._answers[i].status != NETIF_RSP_NULL:
                self._answers[i].status = status
            self.tx.put(&self._answers[i])
        return kind

    cdef bint _answer(self, uint16_t id_, int16_t status) noexcept nogil:
        # A ring yields no more requests than it has entries.
        self._answers[self._taken].id, self._answers[self._taken].status = id_, status
        self._taken += 1
        return True

    cdef int _extras(self, Packet *packet, bint *sound) noexcept nogil:
        """Take a packet's extra information; return FETCH_*, and clear `sound` if it is invalid."""
        cdef Entry entry
        cdef int kind = FETCH_PACKET
        while True:
            if self.tx.take(&entry) != RING_TAKEN:
                return FETCH_BROKEN
            self._answer(0, NETIF_RSP_NULL)
            if entry.extra.type == XEN_NETIF_EXTRA_TYPE_GSO:
                packet.gso_type, packet.gso_size = entry.extra.gso_type, entry.extra.gso_size
                if packet.gso_type not in (XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6):
                    sound[0] = False
            elif entry.extra.type in (
                    XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL):
                # A message, not a packet.
                kind = FETCH_OTHER
                if entry.extra.type == XEN_NETIF_EXTRA_TYPE_MCAST_DEL:
                    self.filter.remove(<uint8_t *>&entry + 2)
                elif self.filter.add(<uint8_t *>&entry + 2) != NETIF_RSP_OKAY:
                    sound[0] = False
            elif entry.extra.type != XEN_NETIF_EXTRA_TYPE_HASH:
                sound[0] = False
            if not entry.extra.flags & XEN_NETIF_EXTRA_FLAG_MORE:
                return kind

    cdef bint _gather(self, Packet *packet, const Slot *slots, uint32_t count) noexcept nogil:
        """Copy what `slots` grant, one after another; return whether all of it could be copied.

        The first slot's size is that of the whole packet.
        """
        cdef uint32_t left = slots[0].size
        cdef uint32_t size, i
        for i in range(1, count):
            if slots[i].size > left:
                return False
            left -= slots[i].size
        packet.length = 0
        for i in range(count):
            size = slots[i].size if i else left
            if <uint32_t>slots[i].offset + size > PAGE or self.grants.copy_from(
                    slots[i].gref, slots[i].offset, size,
                    packet.data + packet.length) != GNTST_okay:
                return False
            packet.length += size
        self.copied += packet.length
        return packet.length >= ETHERNET

    # To the guest.

    cdef int room(self, const Packet *packet) noexcept nogil:
        """Whether the guest has posted buffers for all of `packet`; -1 if the ring is broken.

        If it has not, it will send an event with the next.
        """
        cdef bint gso = packet.gso_type != XEN_NETIF_GSO_TYPE_NONE
        cdef uint32_t wanted = (packet.length + PAGE - 1) // PAGE + gso
        cdef int found = self.rx.more(wanted)
        return -1 if found < 0 else <uint32_t>found >= wanted

    cdef void deliver(self, const Packet *packet) noexcept nogil:
        """Copy `packet` to the guest's buffers, which have `room` for it."""
        cdef RxRequest request
        cdef RxEntry entry
        cdef uint32_t at = 0
        cdef uint32_t size
        cdef uint16_t flags = 0
        if packet.blank:
            flags = NETRXF_csum_blank | NETRXF_data_validated
        elif packet.validated:
            flags = NETRXF_data_validated
        if packet.gso_type != XEN_NETIF_GSO_TYPE_NONE:
            flags |= NETRXF_extra_info
        while at < packet.length:
            if self.rx.take(&request) != RING_TAKEN:
                return
            size = min(packet.length - at, <uint32_t>PAGE)
            entry.response.id, entry.response.offset = request.id, 0
            entry.response.flags = flags | (NETRXF_more_data if at + size < packet.length else 0)
            entry.response.status = <int16_t>size
            if self.grants.copy_to(request.gref, 0, size, packet.data + at) != GNTST_okay:
                entry.response.status = NETIF_RSP_ERROR
                self.counters.rx_errors += 1
            self.rx.put(&entry)
            if flags & NETRXF_extra_info:
                if self.rx.take(&request) != RING_TAKEN:
                    return
                entry.extra.type, entry.extra.flags = XEN_NETIF_EXTRA_TYPE_GSO, 0
                entry.extra.gso_size, entry.extra.gso_type = packet.gso_size, packet.gso_type
                entry.extra.pad = entry.extra.features = 0
                self.rx.put(&entry)
                self.counters.rx_gso += 1
            flags = 0
            at += size
        self.counters.rx_packets += 1
        self.counters.rx_bytes += packet.length
        self.copied += packet.length

    cdef void push(self) noexcept nogil:
        """Publish the responses; `tx_event` and `rx_event` say which events the guest wants."""
        self.tx_event |= self.tx.push()
        self.rx_event |= self.rx.push()
