"""Moves bytes between the clients' sockets and connections: epoll(7), no step in Python.

It holds the GIL except while waiting: no call on a socket blocks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t

from kvmxen.xenstore.connection cimport Connection

import os
import select
from collections import deque
from functools import partial

from kvmxen.xenstore.errors import ProtocolError

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLL_CTL_MOD
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_ctl(int poll, int operation, int fd, epoll_event *event)
    int epoll_wait(int poll, epoll_event *events, int room, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    Py_ssize_t recv(int fd, void *buffer, size_t size, int flags)
    Py_ssize_t send(int fd, const void *buffer, size_t size, int flags)

cdef enum:
    # A reply may be 200 times as long as its request, so requests are taken in small portions.
    PORTION = 4096
    # With this many unread bytes, no more requests are taken.
    ENOUGH = 65536
    ALL = 1 << 30
    EVENTS = 64


cdef class ClientSocket:
    """A client: the descriptor of its socket, and its connection to the store.

    `lost` is set if the client left, sent nonsense, or left more than `limit` bytes unread.
    """

    cdef readonly int descriptor
    cdef readonly bint lost
    cdef Py_ssize_t _limit
    cdef uint32_t _interest
    cdef readonly Connection connection
    # The bytes to send, of which the first `_sent` have been sent.
    cdef bytes _held
    cdef Py_ssize_t _sent

    def __init__(self, int descriptor, Py_ssize_t limit):
        self.descriptor = descriptor
        self._limit = limit
        self._held = b""

    cdef Py_ssize_t _unread(self):
        return PyBytes_GET_SIZE(self._held) - self._sent

    cdef int _receive(self) except -1:
        """Execute the client's requests while it reads the replies."""
        cdef char[PORTION] buffer
        cdef Py_ssize_t got
        if self._unread() >= ENOUGH:
            return 0
        got = recv(self.descriptor, buffer, PORTION, MSG_DONTWAIT)
        if got > 0:
            try:
                self.connection.feed(buffer[:got])
            except ProtocolError:
                self.lost = True
        elif got == 0 or errno not in (EAGAIN, EINTR):
            self.lost = True
        return 0

    cdef int _send(self) except -1:
        """Send the client as much of the waiting output as it takes."""
        cdef bytes more = self.connection.take(ALL)
        cdef Py_ssize_t sent
        if more:
            self._held = self._held[self._sent:] + more if self._unread() else more
            self._sent = 0
        if self._unread():
            sent = send(
                self.descriptor,
                PyBytes_AS_STRING(self._held) + self._sent,
                self._unread(),
                MSG_DONTWAIT | MSG_NOSIGNAL,
            )
            if sent >= 0:
                self._sent += sent
            elif errno not in (EAGAIN, EINTR):
                self.lost = True
        if self._unread() > self._limit:
            self.lost = True
        return 0

    cdef uint32_t _wanted(self):
        """The events to wait for."""
        cdef Py_ssize_t unread = self._unread()
        return (EPOLLIN if unread < ENOUGH else 0) | (EPOLLOUT if unread else 0)


cdef class Pump:
    """Serves clients in the one thread that calls turn() and add(); any thread may call wake()."""

    cdef object _epoll
    cdef int _poll
    cdef int _wakeup
    cdef unsigned long _thread
    cdef dict _clients
    cdef object _woken

    def __init__(self):
        self._epoll = select.epoll()
        self._poll = self._epoll.fileno()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._clients = {}
        self._woken = deque()
        self.watch(self._wakeup)

    def close(self):
        """Close what was opened here; the clients' sockets belong to the caller."""
        self._epoll.close()
        os.close(self._wakeup)

    def watch(self, int descriptor):
        """Have turn() report when `descriptor` is readable."""
        self._epoll.register(descriptor, EPOLLIN)

    def unwatch(self, int descriptor):
        """Stop watching `descriptor`."""
        self._epoll.unregister(descriptor)

    def add(self, int descriptor, connect, Py_ssize_t limit):
        """Serve a client at the socket `descriptor`, which may leave `limit` bytes unread.

        `connect(wake)` returns the connection.
        """
        cdef ClientSocket client = ClientSocket(descriptor, limit)
        client.connection = connect(partial(self._wake, client))
        client._interest = EPOLLIN
        self._clients[descriptor] = client
        self.watch(descriptor)

    def remove(self, int descriptor):
        """End the connection of the client at `descriptor`, whose socket is still open."""
        cdef ClientSocket client = self._clients.pop(descriptor)
        client.connection.close()
        client.lost = True
        self.unwatch(descriptor)

    def wake(self):
        """Make turn() return soon; callable from any thread."""
        os.eventfd_write(self._wakeup, 1)

    def turn(self, int timeout):
        """Wait for at most `timeout` ms, or without limit if it is -1, and serve the clients.

        Returns the descriptors that need attention: watched ones that are readable, and those of
        lost clients, to be removed.
        """
        cdef epoll_event[EVENTS] events
        cdef ClientSocket client
        cdef dict left = {}
        cdef list served = []
        cdef int index, ready, descriptor
        self._thread = PyThread_get_thread_ident()
        with nogil:
            ready = epoll_wait(self._poll, events, EVENTS, timeout)
        for index in range(ready):
            descriptor = events[index].data.fd
            client = self._clients.get(descriptor)
            if client is not None:
                if events[index].events != EPOLLOUT:
                    client._receive()
                served.append(client)
            elif descriptor == self._wakeup:
                os.eventfd_read(self._wakeup)
            else:
                left[descriptor] = None
        # Send all replies after all requests: a client that waits for several wakes up once.
        while self._woken:
            served.append(self._woken.popleft())
        for client in served:
            if not client.lost:
                client._send()
            if not client.lost:
                self._want(client)
            elif self._clients.get(client.descriptor) is client:
                left[client.descriptor] = None
        return list(left)

    def _wake(self, ClientSocket client):
        """Note that there is output for `client`; called from any thread, under the store's
        lock."""
        self._woken.append(client)
        if PyThread_get_thread_ident() != self._thread:
            os.eventfd_write(self._wakeup, 1)

    cdef int _want(self, ClientSocket client) except -1:
        """Wait for the events that the client needs."""
        cdef epoll_event event
        event.events = client._wanted()
        if event.events != client._interest:
            event.data.fd = client.descriptor
            epoll_ctl(self._poll, EPOLL_CTL_MOD, client.descriptor, &event)
            client._interest = event.events
        return 0
