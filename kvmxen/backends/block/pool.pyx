"""The engine on a few threads with preadv(2) and pwritev(2), for hosts without io_uring."""

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t, uint64_t
from posix.unistd cimport close, read, write

from kvmxen.backends.block.engine cimport (
    OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, Engine, Op, advance, iovec,
)

import os

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents

    int poll(pollfd *fds, unsigned long count, int timeout) noexcept
    const int POLLIN

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length) noexcept
    const int FALLOC_FL_KEEP_SIZE
    const int FALLOC_FL_PUNCH_HOLE

cdef extern from "<sys/uio.h>" nogil:
    ssize_t preadv(int fd, const iovec *iov, int count, int64_t offset) noexcept
    ssize_t pwritev(int fd, const iovec *iov, int count, int64_t offset) noexcept

cdef extern from "<unistd.h>" nogil:
    int fdatasync(int fd) noexcept

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t *thread, void *attributes, void *(*start)(void *) noexcept nogil,
                       void *argument) noexcept
    int pthread_join(pthread_t thread, void **result) noexcept
    int pthread_mutex_init(pthread_mutex_t *lock, void *attributes) noexcept
    int pthread_mutex_lock(pthread_mutex_t *lock) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *lock) noexcept
    int pthread_mutex_destroy(pthread_mutex_t *lock) noexcept
    int pthread_cond_init(pthread_cond_t *cond, void *attributes) noexcept
    int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock) noexcept
    int pthread_cond_signal(pthread_cond_t *cond) noexcept
    int pthread_cond_broadcast(pthread_cond_t *cond) noexcept
    int pthread_cond_destroy(pthread_cond_t *cond) noexcept

cdef enum:
    MOST_THREADS = 64


# The state that the threads share with the queue's thread.
cdef struct Shared:
    int fd
    int event
    bint closing
    pthread_mutex_t lock
    pthread_cond_t work
    Op *first
    Op *last
    Op *done


cdef void *run(void *argument) noexcept nogil:
    """One of the threads: carry out one operation after another until closing, with none left."""
    cdef Shared *shared = <Shared *>argument
    cdef Op *op
    cdef uint64_t one = 1
    while True:
        pthread_mutex_lock(&shared.lock)
        while shared.first == NULL and not shared.closing:
            pthread_cond_wait(&shared.work, &shared.lock)
        op = shared.first
        if op != NULL:
            shared.first = op.next
        pthread_mutex_unlock(&shared.lock)
        if op == NULL:
            return NULL
        op.error = carry_out(shared.fd, op)
        pthread_mutex_lock(&shared.lock)
        op.next = shared.done
        shared.done = op
        pthread_mutex_unlock(&shared.lock)
        write(shared.event, &one, sizeof(one))


cdef int carry_out(int fd, Op *op) noexcept nogil:
    """Carry out all of `op`; return 0 or an errno."""
    cdef ssize_t count
    while True:
        if op.kind == OP_READ:
            count = preadv(fd, &op.iov[op.iov_first], <int>op.iov_count, op.offset)
        elif op.kind == OP_WRITE:
            count = pwritev(fd, &op.iov[op.iov_first], <int>op.iov_count, op.offset)
        elif op.kind == OP_FLUSH:
            count = fdatasync(fd)
        else:
            count = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, op.offset, op.left)
        if count < 0:
            if errno == EINTR:
                continue
            return errno
        if op.kind == OP_FLUSH or op.kind == OP_DISCARD:
            return 0
        if count == 0 or <uint64_t>count > op.left:
            # The image has shrunk.
            return EIO
        advance(op, count)
        if op.left == 0:
            return 0


cdef class PoolEngine(Engine):
    """Works on the file `fd` with `threads` threads, at most 64; raises OSError if they cannot be
    created."""

    cdef Shared _shared
    cdef pthread_t _threads[MOST_THREADS]
    cdef int _count

    def __cinit__(self, int fd, int doorbell, int threads):
        self.doorbell = doorbell
        self._count = 0
        self._shared.fd = fd
        self._shared.event = -1
        self._shared.closing = False
        self._shared.first = self._shared.last = self._shared.done = NULL
        pthread_mutex_init(&self._shared.lock, NULL)
        pthread_cond_init(&self._shared.work, NULL)
        self._shared.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        cdef int error
        while self._count < min(threads, MOST_THREADS):
            error = pthread_create(&self._threads[self._count], NULL, run, &self._shared)
            if error:
                self.close()
                raise OSError(error, os.strerror(error))
            self._count += 1

    def __dealloc__(self):
        self._end()
        pthread_cond_destroy(&self._shared.work)
        pthread_mutex_destroy(&self._shared.lock)

    def close(self):
        self._end()

    cdef void _end(self) noexcept:
        cdef int thread
        with nogil:
            pthread_mutex_lock(&self._shared.lock)
            self._shared.closing = True
            pthread_cond_broadcast(&self._shared.work)
            pthread_mutex_unlock(&self._shared.lock)
            for thread in range(self._count):
                pthread_join(self._threads[thread], NULL)
            self._count = 0
            if self._shared.event >= 0:
                close(self._shared.event)
                self._shared.event = -1

    cdef void submit(self, Op *op) noexcept nogil:
        op.next = NULL
        pthread_mutex_lock(&self._shared.lock)
        if self._shared.first == NULL:
            self._shared.first = op
        else:
            self._shared.last.next = op
        self._shared.last = op
        pthread_cond_signal(&self._shared.work)
        pthread_mutex_unlock(&self._shared.lock)
        self.syscalls += 1

    cdef Op *reap(self, bint wait) noexcept nogil:
        cdef pollfd fds[2]
        cdef uint64_t value = 0
        cdef Op *done
        fds[0].fd, fds[0].events = self._shared.event, POLLIN
        fds[1].fd, fds[1].events = self.doorbell, POLLIN
        while True:
            pthread_mutex_lock(&self._shared.lock)
            done = self._shared.done
            self._shared.done = NULL
            pthread_mutex_unlock(&self._shared.lock)
            if done != NULL or not wait:
                return done
            fds[0].revents = fds[1].revents = 0
            self.syscalls += 1
            poll(fds, 2, -1)
            if fds[0].revents:
                self.syscalls += 1
                read(self._shared.event, &value, sizeof(value))
            if fds[1].revents:
                self.drain_doorbell()
                wait = False
