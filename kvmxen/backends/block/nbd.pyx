"""The engine on a connection to an NBD server, a process that knows the image's format.

It uses simple replies, as kvmxen/backends/block/qemu.py negotiates. Data moves directly between
the socket and the guest's memory (the protocol: doc/proto.md of the Network Block Device project).
"""

from libc.errno cimport EAGAIN, EINTR, EIO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport read

from kvmxen.backends.block.engine cimport (
    MAX_SEGMENTS, OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, Engine, Op, advance, iovec,
)

cdef extern from "<endian.h>" nogil:
    uint16_t htobe16(uint16_t value) noexcept
    uint32_t htobe32(uint32_t value) noexcept
    uint64_t htobe64(uint64_t value) noexcept
    uint32_t be32toh(uint32_t value) noexcept

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents

    int poll(pollfd *fds, unsigned long count, int timeout) noexcept
    const int POLLIN
    const int POLLOUT

cdef extern from "<sys/uio.h>" nogil:
    ssize_t readv(int fd, const iovec *iov, int count) noexcept

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen

    ssize_t sendmsg(int fd, const msghdr *message, int flags) noexcept
    const int MSG_NOSIGNAL

cdef enum:
    REQUEST_MAGIC = 0x25609513
    REPLY_MAGIC = 0x67446698
    # NBD_CMD_*
    CMD_READ = 0
    CMD_WRITE = 1
    CMD_FLUSH = 3
    CMD_TRIM = 4
    # The protocol's lengths have 32 bits.
    MOST_TRIMMED = 1 << 30


cdef packed struct Request:
    uint32_t magic
    uint16_t flags
    uint16_t type
    uint64_t handle
    uint64_t offset
    uint32_t length


cdef packed struct Reply:
    uint32_t magic
    uint32_t error
    uint64_t handle


cdef class NbdEngine(Engine):
    """Works on the connected, non-blocking socket `fd`, in its transmission phase.

    If the server is gone, every operation fails with EIO. `close` calls `released(usable)`.
    """

    cdef int _fd
    cdef bint dead
    cdef object _released
    # Operations to send, in order; the first may be sent in part.
    cdef Op *_first
    cdef Op *_last
    # Operations sent, which await a reply.
    cdef Op *_sent
    cdef Request _request
    cdef uint32_t _request_done
    cdef Reply _reply
    cdef uint32_t _reply_done
    # The read whose data is arriving.
    cdef Op *_reading

    def __cinit__(self, int fd, int doorbell, released):
        self._fd, self.doorbell, self._released = fd, doorbell, released
        self.dead = False
        self._first = self._last = self._sent = self._reading = NULL
        self._request_done = self._reply_done = 0

    def close(self):
        self._released(not self.dead)

    cdef void submit(self, Op *op) noexcept nogil:
        op.next = NULL
        if self._first == NULL:
            self._first = op
        else:
            self._last.next = op
        self._last = op

    cdef Op *reap(self, bint wait) noexcept nogil:
        cdef pollfd fds[2]
        while True:
            if not self.dead:
                self._send()
            if not self.dead:
                self._receive()
            if self.dead:
                self._fail_all()
            if self.done != NULL or not wait:
                return self.finished()
            fds[0].fd, fds[0].revents = self._fd, 0
            fds[0].events = POLLIN if self._first == NULL else POLLIN | POLLOUT
            fds[1].fd, fds[1].events, fds[1].revents = self.doorbell, POLLIN, 0
            if self.dead:
                # A dead socket would be readable forever.
                fds[0].fd = -1
            self.syscalls += 1
            poll(fds, 2, -1)
            if fds[1].revents:
                self.drain_doorbell()
                wait = False

    cdef void _begin(self, Op *op) noexcept nogil:
        cdef uint64_t length = op.left
        memset(&self._request, 0, sizeof(Request))
        self._request.magic = htobe32(REQUEST_MAGIC)
        self._request.handle = <uint64_t>op
        if op.kind == OP_FLUSH:
            self._request.type = htobe16(CMD_FLUSH)
            return
        if op.kind == OP_DISCARD:
            length = min(length, <uint64_t>MOST_TRIMMED)
            self._request.type = htobe16(CMD_TRIM)
        elif op.kind == OP_WRITE:
            self._request.type = htobe16(CMD_WRITE)
        self._request.offset = htobe64(op.offset)
        self._request.length = htobe32(<uint32_t>length)

    cdef void _send(self) noexcept nogil:
        cdef iovec parts[MAX_SEGMENTS + 1]
        cdef msghdr message
        cdef ssize_t count
        cdef uint32_t i, left
        cdef Op *op
        while self._first != NULL:
            op = self._first
            if self._request_done == 0:
                self._begin(op)
            left = <uint32_t>sizeof(Request) - self._request_done
            parts[0].iov_base = <uint8_t *>&self._request + self._request_done
            parts[0].iov_len = left
            memset(&message, 0, sizeof(message))
            message.msg_iov, message.msg_iovlen = parts, 1
            if op.kind == OP_WRITE:
                for i in range(op.iov_count):
                    parts[1 + i] = op.iov[op.iov_first + i]
                message.msg_iovlen += op.iov_count
            self.syscalls += 1
            count = sendmsg(self._fd, &message, MSG_NOSIGNAL)
            if count < 0:
                if errno == EINTR:
                    continue
                self.dead = self.dead or errno != EAGAIN
                return
            self._request_done += min(left, <uint32_t>count)
            if count > left:
                advance(op, count - left)
            if self._request_done < sizeof(Request) or (op.kind == OP_WRITE and op.left):
                continue
            self._request_done = 0
            self._first = op.next
            op.next = self._sent
            self._sent = op

    cdef void _receive(self) noexcept nogil:
        cdef ssize_t count
        while not self.dead:
            self.syscalls += 1
            if self._reading != NULL:
                count = readv(self._fd, &self._reading.iov[self._reading.iov_first],
                              <int>self._reading.iov_count)
            else:
                count = read(self._fd, <uint8_t *>&self._reply + self._reply_done,
                             sizeof(Reply) - self._reply_done)
            if count <= 0:
                if count < 0 and errno == EINTR:
                    continue
                self.dead = count == 0 or errno != EAGAIN
                return
            if self._reading != NULL:
                advance(self._reading, count)
                if not self._reading.left:
                    self.finish(self._reading, 0)
                    self._reading = NULL
                continue
            self._reply_done += <uint32_t>count
            if self._reply_done == sizeof(Reply):
                self._reply_done = 0
                self._replied()

    cdef void _replied(self) noexcept nogil:
        cdef Op **place = &self._sent
        cdef Op *op
        cdef uint64_t count
        while place[0] != NULL and <uint64_t>place[0] != self._reply.handle:
            place = &place[0].next
        op = place[0]
        if op == NULL or self._reply.magic != htobe32(REPLY_MAGIC):
            self.dead = True
            return
        place[0] = op.next
        if self._reply.error:
            self.finish(op, <int>be32toh(self._reply.error))
        elif op.kind == OP_READ:
            self._reading = op
        elif op.kind == OP_DISCARD and op.left > MOST_TRIMMED:
            count = MOST_TRIMMED
            op.offset += count
            op.left -= count
            self.submit(op)
        else:
            self.finish(op, 0)

    cdef void _fail_all(self) noexcept nogil:
        cdef Op *op
        if self._reading != NULL:
            self.finish(self._reading, EIO)
            self._reading = NULL
        while self._sent != NULL:
            op = self._sent
            self._sent = op.next
            self.finish(op, EIO)
        while self._first != NULL:
            op = self._first
            self._first = op.next
            self.finish(op, EIO)
