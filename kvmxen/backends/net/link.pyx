"""The host's ends of a network interface: a stream of frames, or a tap device.

Nothing here blocks: the file descriptors are non-blocking, and the caller waits for them.
"""

from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from kvmxen.xen.abi.io cimport (
    XEN_NETIF_GSO_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
)
from kvmxen.backends.net.packet cimport (
    MAX_GSO_HEADER, MAX_PACKET, MIN_GSO_SIZE, Cut, Packet,
    begin_cut, checksum_field, finish_checksum, next_segment, start_checksum,
)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *vector, int count) noexcept
    ssize_t writev(int fd, const iovec *vector, int count) noexcept

cdef extern from "<sys/socket.h>" nogil:
    const int MSG_NOSIGNAL
    const int MSG_DONTWAIT
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags) noexcept
    ssize_t recv(int fd, void *data, size_t length, int flags) noexcept

cdef enum:
    # A frame follows its length, which has four bytes, big-endian.
    PREFIX = 4
    ETHERNET = 14
    # Bytes to gather before sending; the buffer then has room for the segments of one more packet.
    GATHERED = 128 << 10
    OUT_SIZE = 1 << 20
    # Linux splits a longer message, and a frame into two parts at most (unix_stream_sendmsg()). A
    # reader sees all of a part, or nothing.
    PIECE = 32 << 10
    # The most messages in one system call.
    PIECES = 16
    IN_SIZE = 256 << 10

assert OUT_SIZE > GATHERED + (MAX_PACKET // MIN_GSO_SIZE + 1) * (
    PREFIX + MAX_GSO_HEADER + MIN_GSO_SIZE)
assert OUT_SIZE > GATHERED + PREFIX + MAX_PACKET and IN_SIZE > PREFIX + MAX_PACKET


cdef inline uint32_t frame_length(const uint8_t *prefix) noexcept nogil:
    return (<uint32_t>prefix[0] << 24 | <uint32_t>prefix[1] << 16 | <uint32_t>prefix[2] << 8
            | prefix[3])


cdef class Link:
    """One end of a wire. `fd` becomes readable when there is a packet. `segments` counts those
    cut from larger packets; `copied` the bytes of frames copied in this process. `ended` says
    that the other end is gone."""

    cdef int send(self, Packet *packet) noexcept nogil:
        """Accept `packet`, which is sound; return LINK_SENT, LINK_FULL or LINK_DROPPED."""
        return LINK_DROPPED

    cdef bint flush(self) noexcept nogil:
        """Send what is buffered; return whether some is left until `fd` is writable."""
        return False

    cdef int receive(self, Packet *packet) noexcept nogil:
        """Receive the next packet, whose `data` is valid until the next call; return
        LINK_PACKET, LINK_NONE or LINK_ENDED."""
        return LINK_ENDED


cdef class StreamLink(Link):
    """Frames over a stream socket, in the format of passt(1) and QEMU's "-netdev stream".

    The other end supports no offloads: checksums are computed, and large packets cut, here.

    A message holds whole frames of PIECE bytes in total at most, or one longer frame: the passt of
    Debian 12 (March 2023) receives the rest of a frame with one recv(), without MSG_WAITALL; if
    that returns less, passt takes what follows for the next frame's length.
    """

    def __cinit__(self, int fd):
        self.fd = fd
        self._out = <uint8_t *>malloc(OUT_SIZE)
        self._in = <uint8_t *>malloc(IN_SIZE)
        if self._out == NULL or self._in == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._out)
        free(self._in)

    cdef void _append(self, const uint8_t *frame, uint32_t length) noexcept nogil:
        cdef uint8_t *to = self._out + self._out_end
        to[0], to[1] = <uint8_t>(length >> 24), <uint8_t>(length >> 16)
        to[2], to[3] = <uint8_t>(length >> 8), <uint8_t>length
        if frame != NULL:
            memcpy(to + PREFIX, frame, length)
        self._out_end += PREFIX + length
        self.copied += length

    cdef int send(self, Packet *packet) noexcept nogil:
        cdef Cut cut
        cdef uint32_t length
        if self.ended:
            return LINK_DROPPED
        if self._out_end > GATHERED and (self.flush() or self.ended):
            return LINK_DROPPED if self.ended else LINK_FULL
        if packet.gso_type == XEN_NETIF_GSO_TYPE_NONE:
            if packet.blank:
                finish_checksum(packet)
            self._append(packet.data, packet.length)
            return LINK_SENT
        begin_cut(packet, &cut)
        while True:
            length = next_segment(packet, &cut, self._out + self._out_end + PREFIX)
            if not length:
                return LINK_SENT
            self._append(NULL, length)
            self.segments += 1

    cdef uint32_t _end_of_piece(self, uint32_t begin) noexcept nogil:
        """The end of the message that begins with the frame at `begin`."""
        cdef uint32_t end = begin
        cdef uint32_t next_ = end
        while next_ < self._out_end:
            next_ = end + PREFIX + frame_length(self._out + end)
            if end > begin and next_ - begin > PIECE:
                break
            end = next_
        return end

    cdef bint flush(self) noexcept nogil:
        cdef mmsghdr messages[PIECES]
        cdef iovec parts[PIECES]
        cdef uint32_t begin, end
        cdef int count, sent, n
        while self._out_begin < self._out_end:
            count, begin, end = 0, self._out_begin, self._out_piece
            while count < PIECES and begin < self._out_end:
                if begin == end:
                    end = self._end_of_piece(begin)
                parts[count].iov_base, parts[count].iov_len = self._out + begin, end - begin
                memset(&messages[count], 0, sizeof(mmsghdr))
                messages[count].msg_hdr.msg_iov = &parts[count]
                messages[count].msg_hdr.msg_iovlen = 1
                count += 1
                begin = end
            self.syscalls += 1
            # It stops after a message of which it sends only a part.
            sent = sendmmsg(self.fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN or errno == ENOBUFS:
                    return True
                self.ended = True
                break
            for n in range(sent):
                self._out_piece = self._out_begin + <uint32_t>parts[n].iov_len
                self._out_begin += messages[n].msg_len
        self._out_begin = self._out_piece = self._out_end = 0
        return False

    cdef bint _fill(self) noexcept nogil:
        """Receive as much as there is room for; return whether anything came."""
        cdef ssize_t got
        memmove(self._in, self._in + self._in_begin, self._in_end - self._in_begin)
        self._in_end -= self._in_begin
        self._in_begin = 0
        while True:
            self.syscalls += 1
            got = recv(self.fd, self._in + self._in_end, IN_SIZE - self._in_end, MSG_DONTWAIT)
            if got > 0:
                self._in_end += <uint32_t>got
                return True
            if got < 0 and errno == EINTR:
                continue
            if got == 0 or errno != EAGAIN:
                self.ended = True
            return False

    cdef int receive(self, Packet *packet) noexcept nogil:
        cdef uint8_t *at
        cdef uint32_t length
        while not self.ended:
            at = self._in + self._in_begin
            if self._in_end - self._in_begin >= PREFIX:
                length = frame_length(at)
                # An impossible length: nobody knows where the next frame begins.
                if length < ETHERNET or length > MAX_PACKET:
                    self.ended = True
                    break
                if self._in_end - self._in_begin >= PREFIX + length:
                    self._in_begin += PREFIX + length
                    packet.data, packet.length = at + PREFIX, length
                    packet.blank, packet.validated = False, True
                    packet.gso_type, packet.gso_size = XEN_NETIF_GSO_TYPE_NONE, 0
                    return LINK_PACKET
            if not self._fill() and not self.ended:
                return LINK_NONE
        return LINK_ENDED


# struct virtio_net_hdr (linux/virtio_net.h), in the host's byte order.
cdef struct VnetHeader:
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset

cdef enum:
    NEEDS_CSUM = 1
    DATA_VALID = 2
    VNET_GSO_TCPV4 = 1
    VNET_GSO_TCPV6 = 4
    VNET_GSO_ECN = 0x80
    TCP_CWR = 0x80


cdef class TapLink(Link):
    """A tap device with IFF_VNET_HDR (linux/if_tun.h): offloads pass through unchanged.

    The kernel hands over only what TUNSETOFFLOAD allowed.
    """

    def __cinit__(self, int fd):
        self.fd = fd
        self._buffer = <uint8_t *>malloc(MAX_PACKET + 1)
        if self._buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._buffer)

    cdef int send(self, Packet *packet) noexcept nogil:
        cdef VnetHeader header
        cdef iovec parts[2]
        cdef Cut cut
        header.flags = DATA_VALID if packet.validated else 0
        header.gso_type = header.hdr_len = header.gso_size = 0
        header.csum_start = header.csum_offset = 0
        if packet.blank:
            start_checksum(packet)
            header.flags = NEEDS_CSUM
            header.csum_start = <uint16_t>packet.transport
            header.csum_offset = <uint16_t>checksum_field(packet)
        if packet.gso_type != XEN_NETIF_GSO_TYPE_NONE:
            begin_cut(packet, &cut)
            header.gso_type = VNET_GSO_TCPV6
            if packet.gso_type == XEN_NETIF_GSO_TYPE_TCPV4:
                header.gso_type = VNET_GSO_TCPV4
            if packet.data[packet.transport + 13] & TCP_CWR:
                header.gso_type |= VNET_GSO_ECN
            header.hdr_len, header.gso_size = <uint16_t>cut.header, packet.gso_size
        parts[0].iov_base, parts[0].iov_len = &header, sizeof(VnetHeader)
        parts[1].iov_base, parts[1].iov_len = packet.data, packet.length
        while True:
            self.syscalls += 1
            if writev(self.fd, parts, 2) >= 0:
                return LINK_SENT
            if errno != EINTR:
                return LINK_FULL if errno == EAGAIN else LINK_DROPPED

    cdef int receive(self, Packet *packet) noexcept nogil:
        cdef VnetHeader header
        cdef iovec parts[2]
        cdef ssize_t got
        cdef uint8_t kind
        parts[0].iov_base, parts[0].iov_len = &header, sizeof(VnetHeader)
        parts[1].iov_base, parts[1].iov_len = self._buffer, MAX_PACKET + 1
        while True:
            self.syscalls += 1
            got = readv(self.fd, parts, 2)
            if got < 0 and errno == EINTR:
                continue
            if got < 0 and errno == EAGAIN:
                return LINK_NONE
            if got <= 0:
                self.ended = True
                return LINK_ENDED
            got -= sizeof(VnetHeader)
            if got < ETHERNET or got > MAX_PACKET:
                continue
            packet.data, packet.length = self._buffer, <uint32_t>got
            packet.blank = header.flags & NEEDS_CSUM != 0
            packet.validated = header.flags & DATA_VALID != 0
            packet.gso_type, packet.gso_size = XEN_NETIF_GSO_TYPE_NONE, header.gso_size
            kind = header.gso_type & <uint8_t>~VNET_GSO_ECN
            if kind == VNET_GSO_TCPV4:
                packet.gso_type = XEN_NETIF_GSO_TYPE_TCPV4
            elif kind == VNET_GSO_TCPV6:
                packet.gso_type = XEN_NETIF_GSO_TYPE_TCPV6
            return LINK_PACKET
