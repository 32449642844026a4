from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    # The longest packet, in bytes: a request's size is 16 bits.
    MAX_PACKET = 0xffff
    # Smaller segments than any TCP sends (TCP_MIN_SND_MSS) would only multiply headers.
    MIN_GSO_SIZE = 48
    # Room for the headers of Ethernet, IPv6 and TCP with all its options, and for more extension
    # headers than any sender uses.
    MAX_GSO_HEADER = 256


# A packet in our own memory.
cdef struct Packet:
    uint8_t *data
    uint32_t length
    # The transport's checksum is not computed yet; the field is to be ignored.
    bint blank
    # The checksum is known to be right.
    bint validated
    uint8_t gso_type
    uint16_t gso_size
    # Set by `locate`: the offsets of the headers, in bytes; TCP, UDP, or 0 for others; and the end
    # of the segment, as a link may have padded the packet.
    uint8_t ip_version
    uint8_t protocol
    uint32_t network
    uint32_t transport
    uint32_t end


# The state of cutting a TCP packet.
cdef struct Cut:
    uint32_t header
    uint32_t at
    uint32_t count


cdef bint locate(Packet *packet) noexcept nogil
cdef bint is_sound(Packet *packet) noexcept nogil
cdef uint32_t checksum_field(const Packet *packet) noexcept nogil
cdef void start_checksum(Packet *packet) noexcept nogil
cdef void finish_checksum(Packet *packet) noexcept nogil
cdef void begin_cut(const Packet *packet, Cut *cut) noexcept nogil
cdef uint32_t next_segment(const Packet *packet, Cut *cut, uint8_t *out) noexcept nogil
cdef uint32_t flow_hash(Packet *packet) noexcept nogil
