"""Packets: locating headers, computing checksums, cutting TCP into segments.

All of it works on a private copy of a guest's packet, and checks each length in the packet before
use. Sources: RFC 791, 793, 768, 8200, 1071; a segment inherits fields from its packet's header as
in Linux's net/ipv4/tcp_offload.c.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kvmxen.xen.abi.io cimport (
    XEN_NETIF_GSO_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
)

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The ones' complement sum of `length` bytes, in memory order, not yet folded. */
    static inline uint64_t sum_of(const uint8_t *data, uint32_t length, uint64_t sum)
    {
        uint64_t high = 0;
        while (length >= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            sum += word & 0xffffffff;
            high += word >> 32;
            data += 8;
            length -= 8;
        }
        sum += high;
        while (length >= 2) {
            uint16_t word;
            memcpy(&word, data, 2);
            sum += word;
            data += 2;
            length -= 2;
        }
        if (length)
            sum += *data;
        return sum;
    }

    static inline uint16_t fold(uint64_t sum)
    {
        while (sum >> 16)
            sum = (sum & 0xffff) + (sum >> 16);
        return (uint16_t)sum;
    }

    static inline uint16_t load16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

    static inline void store16(uint8_t *p, uint16_t v) { p[0] = v >> 8; p[1] = v & 0xff; }

    static inline uint32_t load32(const uint8_t *p)
    {
        return (uint32_t)load16(p) << 16 | load16(p + 2);
    }

    static inline void store32(uint8_t *p, uint32_t v)
    {
        store16(p, v >> 16);
        store16(p + 2, v & 0xffff);
    }

    /* A sum goes into a packet as it is in memory. */
    static inline void put_sum(uint8_t *p, uint16_t sum) { memcpy(p, &sum, 2); }

    /* By the golden ratio, as Linux's hash_32(). */
    static inline uint32_t hash_in(uint32_t hash, uint32_t word)
    {
        return hash * 0x61c88647u + word;
    }
    """
    uint64_t sum_of(const uint8_t *data, uint32_t length, uint64_t sum_) noexcept nogil
    uint16_t fold(uint64_t sum_) noexcept nogil
    uint16_t load16(const uint8_t *p) noexcept nogil
    void store16(uint8_t *p, uint16_t v) noexcept nogil
    uint32_t load32(const uint8_t *p) noexcept nogil
    void store32(uint8_t *p, uint32_t v) noexcept nogil
    void put_sum(uint8_t *p, uint16_t sum_) noexcept nogil
    uint32_t hash_in(uint32_t hash_, uint32_t word) noexcept nogil

cdef enum:
    ETHERNET = 14
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_IPV6 = 0x86dd
    TCP = 6
    UDP = 17
    # IPv6 headers that precede the transport's.
    HOP_BY_HOP = 0
    ROUTING = 43
    DESTINATION = 60
    # TCP flags.
    FIN = 0x01
    PSH = 0x08
    CWR = 0x80


cdef bint locate(Packet *packet) noexcept nogil:
    """Find the headers of a TCP or UDP packet; return whether it is a complete one.

    A fragment is not: it has only a part of a segment.
    """
    cdef uint8_t *data = packet.data
    cdef uint32_t length = packet.length
    cdef uint32_t at = ETHERNET
    cdef uint32_t end, size
    cdef uint8_t kind
    packet.protocol = 0
    if length < ETHERNET + 20:
        return False
    packet.network = ETHERNET
    if load16(data + 12) == ETHERTYPE_IPV4:
        packet.ip_version = 4
        size = (data[at] & 0xf) * 4
        end = at + load16(data + at + 2)
        # In the fragment word only "don't fragment" may be set.
        if data[at] >> 4 != 4 or size < 20 or load16(data + at + 6) & 0xbfff:
            return False
        kind = data[at + 9]
        at += size
    elif load16(data + 12) == ETHERTYPE_IPV6:
        packet.ip_version = 6
        if length < ETHERNET + 40 or data[at] >> 4 != 6:
            return False
        end = at + 40 + load16(data + at + 4)
        kind = data[at + 6]
        at += 40
        while kind == HOP_BY_HOP or kind == ROUTING or kind == DESTINATION:
            if at + 8 > length:
                return False
            kind = data[at]
            at += (data[at + 1] + 1) * 8
    else:
        return False
    if kind == TCP:
        size = 20
    elif kind == UDP:
        size = 8
    else:
        return False
    if end > length or at + size > end:
        return False
    if kind == TCP:
        size = (data[at + 12] >> 4) * 4
        if size < 20 or at + size > end:
            return False
    packet.protocol, packet.transport, packet.end = kind, at, end
    return True


cdef bint is_sound(Packet *packet) noexcept nogil:
    """Whether a guest's packet matches its flags; calls `locate` if the flags ask for an
    offload."""
    cdef uint8_t version
    cdef Cut cut
    if packet.length < ETHERNET:
        return False
    if packet.gso_type == XEN_NETIF_GSO_TYPE_NONE:
        return not packet.blank or locate(packet)
    if not locate(packet) or packet.protocol != TCP or packet.gso_size < MIN_GSO_SIZE:
        return False
    begin_cut(packet, &cut)
    if cut.header > MAX_GSO_HEADER:
        return False
    version = 4 if packet.gso_type == XEN_NETIF_GSO_TYPE_TCPV4 else 6
    # Whatever the guest said, each segment needs its own checksum.
    packet.blank = True
    return packet.ip_version == version and packet.end == packet.length


cdef uint32_t checksum_field(const Packet *packet) noexcept nogil:
    """The offset of the checksum in the transport's header, in bytes."""
    return 16 if packet.protocol == TCP else 6


cdef uint64_t pseudo_sum(const uint8_t *data, const Packet *packet, uint32_t length) noexcept nogil:
    """The sum over the pseudo-header of a segment of `length` bytes of the packet in `data`."""
    cdef uint8_t words[4]
    store16(words, length)
    store16(words + 2, packet.protocol)
    if packet.ip_version == 4:
        return sum_of(data + packet.network + 12, 8, sum_of(words, 4, 0))
    return sum_of(data + packet.network + 8, 32, sum_of(words, 4, 0))


cdef void fill_checksum(uint8_t *data, const Packet *packet, uint32_t end) noexcept nogil:
    cdef uint8_t *field = data + packet.transport + checksum_field(packet)
    cdef uint32_t length = end - packet.transport
    cdef uint16_t value
    put_sum(field, 0)
    value = ~fold(sum_of(data + packet.transport, length, pseudo_sum(data, packet, length)))
    # In a UDP datagram, zero means that there is no checksum.
    put_sum(field, value if value or packet.protocol == TCP else 0xffff)


cdef void start_checksum(Packet *packet) noexcept nogil:
    """Store the pseudo-header's sum in the field, for the receiver to finish."""
    cdef uint8_t *field = packet.data + packet.transport + checksum_field(packet)
    put_sum(field, fold(pseudo_sum(packet.data, packet, packet.end - packet.transport)))


cdef void finish_checksum(Packet *packet) noexcept nogil:
    """Compute the transport's checksum."""
    fill_checksum(packet.data, packet, packet.end)
    packet.blank, packet.validated = False, True


cdef void begin_cut(const Packet *packet, Cut *cut) noexcept nogil:
    """Start to cut a TCP packet whose headers were located."""
    cut.header = packet.transport + (packet.data[packet.transport + 12] >> 4) * 4
    cut.at = cut.header
    cut.count = 0


cdef uint32_t next_segment(const Packet *packet, Cut *cut, uint8_t *out) noexcept nogil:
    """Write the next segment, headers included, to `out`; return its length in bytes, 0 at the
    end.

    Its payload has at most `gso_size` bytes.
    """
    cdef uint32_t left = packet.length - cut.at
    cdef uint32_t size = min(left, <uint32_t>packet.gso_size)
    cdef uint32_t end = cut.header + size
    cdef uint8_t *network = out + packet.network
    cdef uint8_t *tcp = out + packet.transport
    # A packet without payload is one segment.
    if not left and cut.count:
        return 0
    memcpy(out, packet.data, cut.header)
    memcpy(out + cut.header, packet.data + cut.at, size)
    if packet.ip_version == 4:
        store16(network + 2, end - packet.network)
        store16(network + 4, load16(packet.data + packet.network + 4) + cut.count)
        put_sum(network + 10, 0)
        put_sum(network + 10, ~fold(sum_of(network, (network[0] & 0xf) * 4, 0)))
    else:
        store16(network + 4, end - packet.network - 40)
    store32(tcp + 4, load32(packet.data + packet.transport + 4) + cut.at - cut.header)
    if cut.count:
        tcp[13] &= <uint8_t>~CWR
    if size < left:
        tcp[13] &= <uint8_t>~(FIN | PSH)
    fill_checksum(out, packet, end)
    cut.at += size
    cut.count += 1
    return end


cdef uint32_t flow_hash(Packet *packet) noexcept nogil:
    """A hash that is the same for every packet of one connection and direction, whole or
    fragment."""
    cdef uint32_t hash_ = 0
    cdef uint32_t at, end
    if not locate(packet):
        return 0
    at = packet.network + (12 if packet.ip_version == 4 else 8)
    end = at + (8 if packet.ip_version == 4 else 32)
    while at < end:
        hash_ = hash_in(hash_, load32(packet.data + at))
        at += 4
    hash_ = hash_in(hash_, load32(packet.data + packet.transport))
    return hash_ ^ hash_ >> 16


# The same for Python: packets are bytes; one that is neither TCP nor UDP raises ValueError.

cdef int open_packet(Packet *packet, bytearray frame, bint gso, uint16_t gso_size) except -1:
    packet.data = <uint8_t *><char *>frame
    packet.length = <uint32_t>len(frame)
    packet.blank, packet.validated = True, False
    packet.gso_type, packet.gso_size = XEN_NETIF_GSO_TYPE_NONE, gso_size
    if gso:
        packet.gso_type = XEN_NETIF_GSO_TYPE_TCPV4
        if frame[12:14] == b"\x86\xdd":
            packet.gso_type = XEN_NETIF_GSO_TYPE_TCPV6
    if not is_sound(packet):
        raise ValueError("no whole packet of TCP or UDP")
    return 0


def complete(bytes frame):
    """`frame` with the transport's checksum computed."""
    cdef Packet packet
    cdef bytearray data = bytearray(frame)
    open_packet(&packet, data, False, 0)
    finish_checksum(&packet)
    return bytes(data)


def prepare(bytes frame):
    """`frame` prepared for another to compute its checksum: (frame, offset of the transport
    header, offset of the field in it)."""
    cdef Packet packet
    cdef bytearray data = bytearray(frame)
    open_packet(&packet, data, False, 0)
    start_checksum(&packet)
    return bytes(data), packet.transport, checksum_field(&packet)


def segments(bytes frame, uint16_t gso_size):
    """The segments of a TCP packet, with at most `gso_size` bytes of payload each."""
    cdef Packet packet
    cdef Cut cut
    cdef uint32_t length
    cdef bytearray data = bytearray(frame)
    cdef bytearray out = bytearray(MAX_PACKET)
    open_packet(&packet, data, True, gso_size)
    begin_cut(&packet, &cut)
    found = []
    while True:
        length = next_segment(&packet, &cut, <uint8_t *><char *>out)
        if not length:
            return found
        found.append(bytes(out[:length]))


def flow(bytes frame):
    """The flow that `frame` belongs to."""
    cdef Packet packet
    cdef bytearray data = bytearray(frame)
    packet.data, packet.length = <uint8_t *><char *>data, <uint32_t>len(data)
    return flow_hash(&packet)
