"""The data path of a network interface: its queues, a link, and the thread between them.

It holds only one packet each way, which waits for the link or for the guest to post buffers. So a
slow guest fills the link's own queue, and a slow link fills the guest's ring.
"""

from cpython.ref cimport PyObject
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from kvmxen.backends.net.link cimport LINK_DROPPED, LINK_FULL, LINK_PACKET, Link
from kvmxen.backends.net.packet cimport MAX_PACKET, flow_hash
from kvmxen.backends.net.queue cimport FETCH_BROKEN, FETCH_NONE, FETCH_PACKET, NetQueue

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, void *mask) noexcept
    const short POLLIN
    const short POLLOUT

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    const int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now) noexcept

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *data, size_t length) noexcept

cdef extern from *:
    """
    static inline int net_load(const int *flag)
    {
        return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
    }
    static inline void net_store(int *flag, int value)
    {
        __atomic_store_n(flag, value, __ATOMIC_SEQ_CST);
    }
    """
    int net_load(const bint *flag) noexcept nogil
    void net_store(bint *flag, int value) noexcept nogil

cdef enum:
    # The most packets of one direction in a round, so that each queue gets its turn.
    BUDGET = 64
    # A burst that is always allowed, as in Linux (tx_add_credit()).
    MIN_BURST = 131072
    SECOND = 1000000000


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * SECOND + now.tv_nsec


cdef class Credit:
    """A limit of `bytes` in each `period` ns on what a guest may transmit; 0 bytes means no
    limit."""

    def __cinit__(self, int64_t bytes_, int64_t period):
        self.bytes, self.period = bytes_, period
        self._left = bytes_
        self._renewed = now_ns()

    cdef int64_t wait(self) noexcept nogil:
        """The time until there is credit, in ns; 0 if there is some now."""
        cdef int64_t now
        cdef int64_t periods
        if not self.bytes or self._left > 0:
            return 0
        now = now_ns()
        periods = (now - self._renewed) // self.period
        if periods > 0:
            # Each period pays off debt; credit does not accumulate.
            self._left = min(self._left + min(periods, <int64_t>1024) * self.bytes,
                             max(self.bytes, <int64_t>MIN_BURST))
            self._renewed = now
        return 0 if self._left > 0 else self._renewed + self.period - now

    cdef void spend(self, int64_t size) noexcept nogil:
        """Account for a packet of `size` bytes, which may exceed the credit."""
        self._left -= size


cdef class Interface:
    """Moves packets between `queues` (NetQueue, at most MAX_QUEUES) and `link`.

    The guest rings `doorbell` (ring.doorbell.Doorbell). Packets from the link that are longer than
    `longest` bytes are dropped. If the guest breaks a ring, `broken()` is called in the thread of
    `run`.
    """

    def __cinit__(self, Link link, list queues, Credit credit, doorbell, broken):
        self._buffer = NULL
        if not 0 < len(queues) <= MAX_QUEUES:
            raise ValueError(f"{len(queues)} queues")
        self.link, self.queues, self._credit, self._broken = link, queues, credit, broken
        self._doorbell, self._event = doorbell, doorbell.fd
        self.longest = MAX_PACKET
        for queue in queues:
            self._queues[self._count] = <PyObject *><NetQueue?>queue
            self._count += 1
        self._target = -1
        self._buffer = self._outbound.data = <uint8_t *>malloc(MAX_PACKET)
        if self._buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._buffer)

    def stop(self):
        """Make `run` return; callable from any thread."""
        net_store(&self._stopping, True)
        self._doorbell.ring()

    def run(self):
        """Work until `stop`, or until the guest breaks a ring."""
        cdef int moved = 0
        cdef bint events = False
        cdef int i
        while not net_load(&self._stopping):
            with nogil:
                while True:
                    moved = self._round()
                    events = False
                    for i in range(self._count):
                        events |= (<NetQueue>self._queues[i]).tx_event
                        events |= (<NetQueue>self._queues[i]).rx_event
                    if moved < 0 or events or net_load(&self._stopping):
                        break
                    if not moved:
                        self._sleep()
            if events:
                self._notify()
            if moved < 0:
                self._broken()
                return

    def round(self):
        """Run one round, for tests; return whether anything moved."""
        cdef int moved = self._round()
        self._notify()
        if moved < 0:
            self._broken()
        return moved > 0

    cdef bint _notify(self) except -1:
        cdef NetQueue queue
        cdef bint tx
        for queue in self.queues:
            # A channel shared by both needs one event.
            tx = queue.tx_event
            if tx:
                queue.tx_event = False
                self.notifications += 1
                queue.notify_tx()
            if queue.rx_event:
                queue.rx_event = False
                if not (tx and queue.notify_rx == queue.notify_tx):
                    self.notifications += 1
                    queue.notify_rx()
        return True

    cdef int _round(self) noexcept nogil:
        """Move packets, within the budget; return their number, -1 if a ring is broken."""
        cdef int moved = 0
        cdef int i, done
        self._link_full = False
        self._throttled = 0
        for i in range(self._count):
            done = self._transmit(i)
            if done < 0:
                return -1
            moved += done
        self._link_full |= self.link.flush()
        done = self._receive()
        for i in range(self._count):
            (<NetQueue>self._queues[i]).push()
        return -1 if done < 0 else moved + done

    cdef int _transmit(self, int index) noexcept nogil:
        """Move packets from queue `index` to the link; return their number, -1 if the ring is
        broken."""
        cdef int moved = 0
        cdef int kind
        while moved < BUDGET and self._pass_on():
            self._throttled = self._credit.wait()
            if self._throttled:
                break
            kind = (<NetQueue>self._queues[index]).fetch(&self._outbound)
            if kind == FETCH_NONE:
                kind = (<NetQueue>self._queues[index]).tx.more()
                if kind <= 0:
                    return -1 if kind < 0 else moved
                continue
            if kind == FETCH_BROKEN:
                return -1
            moved += 1
            if kind == FETCH_PACKET:
                self._credit.spend(self._outbound.length)
                self._holding = True
        self._pass_on()
        return moved

    cdef bint _pass_on(self) noexcept nogil:
        """Give the link the fetched packet; return whether another can be fetched."""
        cdef int kind
        if not self._holding:
            return True
        kind = self.link.send(&self._outbound)
        self._link_full = kind == LINK_FULL
        self._holding = self._link_full
        self.dropped += kind == LINK_DROPPED
        return not self._holding

    cdef bint _next(self) noexcept nogil:
        """Get a packet for the guest and choose its queue; return whether there is one."""
        while self._target < 0:
            if self.link.receive(&self._inbound) != LINK_PACKET:
                return False
            if (self._inbound.length > self.longest
                    or not (<NetQueue>self._queues[0]).filter.passes(self._inbound.data)):
                self.filtered += 1
                continue
            self._target = 0
            if self._count > 1:
                self._target = <int>(flow_hash(&self._inbound) % <uint32_t>self._count)
        return True

    cdef int _receive(self) noexcept nogil:
        """Move packets from the link to the guest; return their number, -1 if a ring is broken."""
        cdef int moved = 0
        cdef int room
        while moved < BUDGET and self._next():
            room = (<NetQueue>self._queues[self._target]).room(&self._inbound)
            if room < 0:
                return -1
            if not room:
                break
            (<NetQueue>self._queues[self._target]).deliver(&self._inbound)
            self._target = -1
            moved += 1
        return moved

    cdef void _sleep(self) noexcept nogil:
        """Sleep until the guest rings, the link has a packet or room, or there is credit again."""
        cdef pollfd fds[2]
        cdef timespec timeout
        cdef uint64_t count = 0
        fds[0].fd, fds[0].events, fds[0].revents = self._event, POLLIN, 0
        fds[1].fd, fds[1].events, fds[1].revents = self.link.fd, 0, 0
        if self._target < 0:
            fds[1].events |= POLLIN
        if self._link_full:
            fds[1].events |= POLLOUT
        if self.link.ended or not fds[1].events:
            fds[1].fd = -1
        timeout.tv_sec, timeout.tv_nsec = self._throttled // SECOND, self._throttled % SECOND
        if ppoll(fds, 2, &timeout if self._throttled else NULL, NULL) < 0 and errno == EINTR:
            return
        self.wakeups += 1
        if fds[0].revents:
            if read(self._event, &count, sizeof(count)) > 0:
                self._rings += count

    def figures(self):
        """Counts by name, as the guest sees them (tx is what it transmits)."""
        cdef NetQueue queue
        names = ("tx_packets", "tx_bytes", "tx_gso", "tx_errors",
                 "rx_packets", "rx_bytes", "rx_gso", "rx_errors")
        total = dict.fromkeys(names, 0)
        copied = self.link.copied
        for queue in self.queues:
            copied += queue.copied
            for name, value in (<dict>queue.counters).items():
                total[name] += value
        return {**total, "tx_dropped": self.dropped, "rx_filtered": self.filtered,
                "segments": self.link.segments, "bytes_copied": copied,
                "kicks": self._rings + self._doorbell.unread,
                "notifications": self.notifications,
                "wakeups": self.wakeups, "syscalls": self.link.syscalls + self.wakeups}
