"""One ring of a disk: a request becomes operations of an engine, and those become a response.

A request is copied before it is examined, and so are its segments if they come in a page of their
own. A bad request is answered with an error. One thread owns a queue; it takes the GIL only to
notify the guest (xen/include/public/io/blkif.h).
"""

from libc.errno cimport EINVAL, EOPNOTSUPP
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset

from kvmxen.backends.block.engine cimport (
    MAX_SEGMENTS, OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, Engine, Op, iovec,
)
from kvmxen.xen.abi.io cimport (
    BLKIF_DISCARD_SECURE, BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR,
)
from kvmxen.xen.abi.xen cimport GNTST_okay
from kvmxen.xen.grants cimport GrantTable
from kvmxen.ring.shared_ring cimport RING_TAKEN, BackRing

cdef enum:
    SECTOR_SHIFT = 9
    SECTORS_PER_PAGE = 8
    # The most entries that the grant table can have.
    MOST_REFS = 64 * 512
    # A 32-bit frontend's structures lack NARROW_BY bytes of padding at NARROW_AT.
    NARROW_AT = 4
    NARROW_BY = 4

    # A job's steps, in order.
    FLUSH_BEFORE = 1
    DATA = 2
    FLUSH_AFTER = 4

MAX_INDIRECT_SEGMENTS = MAX_SEGMENTS


cdef class BlockQueue:
    """Serves `ring` with `engine`, for a disk of `sectors` of 512 bytes.

    `sector_size`, in bytes, is the disk's own. If `persistent`, a grant stays mapped until
    `close`. Without `flush`, a flush does nothing. `notify()` tells the guest of responses;
    `failed(error)` receives our own errors.
    """

    def __cinit__(self, BackRing ring, GrantTable grants, Engine engine, notify, failed, *,
                  uint64_t sectors, uint32_t sector_size, bint readonly, bint discard,
                  bint flush, bint persistent):
        cdef uint32_t i
        self._jobs = NULL
        self._free = NULL
        self._persistent = NULL
        self._held = NULL
        self._ring, self._grants, self._engine = ring, grants, engine
        self._notify, self._failed = notify, failed
        self._sectors = sectors
        self._sector_mask = (sector_size >> SECTOR_SHIFT) - 1
        self._readonly, self._discard, self._flush = readonly, discard, flush
        self._narrow = ring.request_size < sizeof(Request)
        self._jobs = <Job *>calloc(ring.size, sizeof(Job))
        self._free = <Job **>calloc(ring.size, sizeof(Job *))
        if persistent:
            self._persistent = <uint8_t **>calloc(MOST_REFS, sizeof(uint8_t *))
        if self._jobs == NULL or self._free == NULL or (persistent and self._persistent == NULL):
            raise MemoryError
        for i in range(ring.size):
            self._free[i] = &self._jobs[i]
        self._free_count = ring.size

    def __dealloc__(self):
        free(self._jobs)
        free(self._free)
        free(self._persistent)

    # From other threads.

    def stop(self):
        """Make `serve` return when the operations in flight are done; ring the doorbell
        afterwards."""
        self._stopping = True

    def grow(self, uint64_t sectors):
        """Let the disk have `sectors` from now on, more than before."""
        self._sectors = sectors

    @property
    def broken(self):
        """Whether the frontend's ring indices are impossible."""
        return self._ring.broken

    def figures(self):
        """Counts of requests, bytes and so on since the queue was made. "bytes_copied" counts only
        segments that came in a page of their own, as data is never copied; "kicks" is the sum of
        what was read from the doorbell."""
        return {**self._counters, "syscalls": self._engine.syscalls, "kicks": self._engine.rings}

    def close(self):
        """Unmap what is still mapped; call it after `serve` has returned."""
        cdef int ref
        if self._persistent != NULL:
            for ref in range(MOST_REFS):
                if self._persistent[ref] != NULL:
                    self._grants.unmap(ref, True)
                    self._persistent[ref] = NULL

    # In the queue's own thread.

    def serve(self):
        """Carry out requests until `stop`, or until the frontend breaks the ring."""
        with nogil:
            self._serve()

    cdef void _serve(self) noexcept nogil:
        cdef bint more
        while True:
            more = self._take()
            self._publish()
            if (self._stopping or self._ring.broken) and not self._in_flight:
                return
            self._finished(self._engine.reap(not more))

    cdef bint _take(self) noexcept nogil:
        """Start the requests in the ring while there is room; return whether there may be more."""
        cdef Request request
        cdef Job *job
        cdef int error
        cdef uint32_t left = self._ring.size
        if self._held != NULL and not self._in_flight:
            self._begin(self._held)
        while left and self._free_count and self._held == NULL and not self._stopping:
            left -= 1
            if self._ring.take(&request) != RING_TAKEN:
                break
            if self._narrow:
                memmove(<uint8_t *>&request + NARROW_AT + NARROW_BY,
                        <uint8_t *>&request + NARROW_AT,
                        sizeof(Request) - NARROW_AT - NARROW_BY)
            job = self._free[self._free_count - 1]
            error = self._prepare(&request, job)
            if error:
                self._respond(job.id, job.operation, error)
                continue
            self._free_count -= 1
            if job.operation == BLKIF_OP_WRITE_BARRIER and self._in_flight:
                # All requests before it must be done, and none after it begun.
                self._held = job
            else:
                self._begin(job)
        if self._stopping or self._held != NULL or not self._free_count:
            return False
        return self._ring.more() > 0

    cdef int _prepare(self, Request *request, Job *job) noexcept nogil:
        """Turn `request` into `job`; return 0, or the errno that the request ends with."""
        cdef uint8_t operation = request.rw.operation
        job.id = request.rw.id
        job.operation = operation
        job.steps = 0
        job.bytes = 0
        job.ref_count = 0
        job.op.offset = job.op.left = 0
        job.op.iov_first = job.op.iov_count = 0
        if operation == BLKIF_OP_DISCARD:
            return self._prepare_discard(request, job)
        if operation == BLKIF_OP_INDIRECT:
            return self._prepare_indirect(request, job)
        if operation > BLKIF_OP_FLUSH_DISKCACHE:
            return EOPNOTSUPP
        return self._prepare_data(request, job)

    cdef int _prepare_data(self, Request *request, Job *job) noexcept nogil:
        cdef uint32_t count = request.rw.nr_segments
        if job.operation >= BLKIF_OP_WRITE_BARRIER:
            job.steps = FLUSH_BEFORE if not count else FLUSH_BEFORE | FLUSH_AFTER
            if not count:
                return 0
        if count > BLKIF_MAX_SEGMENTS_PER_REQUEST:
            return EINVAL
        return self._map(job, request.rw.seg, count, request.rw.sector_number,
                         job.operation == BLKIF_OP_READ)

    cdef int _prepare_indirect(self, Request *request, Job *job) noexcept nogil:
        cdef Segment segments[MAX_SEGMENTS]
        cdef uint32_t count = request.indirect.nr_segments
        cdef uint8_t operation = request.indirect.indirect_op
        # The response names the inner operation.
        job.operation = operation
        if operation > BLKIF_OP_WRITE or count > MAX_SEGMENTS:
            return EINVAL
        # One page holds MAX_SEGMENTS segments.
        if self._grants.copy_from(request.indirect.indirect_grefs[0], 0,
                                  count * <uint32_t>sizeof(Segment),
                                  <uint8_t *>segments) != GNTST_okay:
            return EINVAL
        self._counters.bytes_copied += count * sizeof(Segment)
        return self._map(
            job, segments, count, request.indirect.sector_number, operation == BLKIF_OP_READ)

    cdef int _prepare_discard(self, Request *request, Job *job) noexcept nogil:
        cdef uint64_t count = request.discard.nr_sectors
        cdef uint64_t sector = request.discard.sector_number
        if not self._discard or request.discard.flag & BLKIF_DISCARD_SECURE:
            return EOPNOTSUPP
        if (self._readonly or not count or count > self._sectors
                or sector > self._sectors - count or (sector | count) & self._sector_mask):
            return EINVAL
        job.steps = DATA
        job.data_kind = OP_DISCARD
        job.op.offset = sector << SECTOR_SHIFT
        job.op.left = job.bytes = count << SECTOR_SHIFT
        return 0

    cdef int _map(self, Job *job, const Segment *segments, uint32_t count, uint64_t sector,
                  bint reads) noexcept nogil:
        """Make `job` read or write `segments`; return 0, or an errno with nothing mapped."""
        cdef uint64_t total = 0
        cdef uint32_t i, first, length
        cdef uint8_t *page
        cdef iovec *part = NULL
        if not count or (self._readonly and not reads):
            return EINVAL
        for i in range(count):
            first = segments[i].first_sect
            if segments[i].last_sect < first or segments[i].last_sect >= SECTORS_PER_PAGE:
                return EINVAL
            length = segments[i].last_sect - first + 1
            if (first | length) & self._sector_mask:
                return EINVAL
            total += length
        if sector & self._sector_mask or total > self._sectors or sector > self._sectors - total:
            return EINVAL
        job.maps_write = reads
        for i in range(count):
            page = self._page(job, segments[i].gref)
            if page == NULL:
                self._unmap(job)
                return EINVAL
            page += <uint32_t>segments[i].first_sect << SECTOR_SHIFT
            length = (segments[i].last_sect - segments[i].first_sect + 1) << SECTOR_SHIFT
            if part != NULL and <uint8_t *>part.iov_base + part.iov_len == page:
                part.iov_len += length
                self._counters.merges += 1
                continue
            part = &job.op.iov[job.op.iov_count]
            part.iov_base, part.iov_len = page, length
            job.op.iov_count += 1
        job.steps |= DATA
        job.data_kind = OP_READ if reads else OP_WRITE
        job.op.offset = sector << SECTOR_SHIFT
        job.op.left = job.bytes = total << SECTOR_SHIFT
        return 0

    cdef uint8_t *_page(self, Job *job, uint32_t ref) noexcept nogil:
        """Map the page that `ref` grants, for `job` or permanently; return NULL if it is not
        granted.

        A permanent mapping is writable, whatever its first use.
        """
        cdef int status = 0
        cdef uint8_t *page
        if self._persistent != NULL:
            if ref >= MOST_REFS:
                return NULL
            if self._persistent[ref] == NULL:
                self._persistent[ref] = self._grants.map(ref, True, &status)
            return self._persistent[ref]
        page = self._grants.map(ref, job.maps_write, &status)
        if page != NULL:
            job.refs[job.ref_count] = ref
            job.ref_count += 1
        return page

    cdef void _unmap(self, Job *job) noexcept nogil:
        while job.ref_count:
            job.ref_count -= 1
            self._grants.unmap(job.refs[job.ref_count], job.maps_write)

    cdef void _begin(self, Job *job) noexcept nogil:
        self._in_flight += 1
        self._next_step(job, 0)

    cdef void _next_step(self, Job *job, int error) noexcept nogil:
        """Start the next step of `job`, or end it."""
        cdef uint8_t step = job.steps & <uint8_t>-job.steps
        if not self._flush:
            step = job.steps & DATA
        if step and not error:
            job.steps ^= step
            if not self._flush:
                job.steps = 0
            job.op.kind = job.data_kind if step == DATA else OP_FLUSH
            self._engine.submit(&job.op)
            return
        self._count(job, error)
        self._unmap(job)
        self._respond(job.id, job.operation, error)
        if self._held == job:
            self._held = NULL
        self._free[self._free_count] = job
        self._free_count += 1
        self._in_flight -= 1

    cdef void _finished(self, Op *done) noexcept nogil:
        cdef Op *op
        while done != NULL:
            op = done
            done = done.next
            # A Job's first member is its Op.
            self._next_step(<Job *>op, op.error)

    cdef void _count(self, Job *job, int error) noexcept nogil:
        if error:
            return
        if not job.bytes:
            self._counters.flushes += 1
        elif job.data_kind == OP_READ:
            self._counters.reads += 1
            self._counters.bytes_read += job.bytes
        elif job.data_kind == OP_WRITE:
            self._counters.writes += 1
            self._counters.bytes_written += job.bytes
        else:
            self._counters.discards += 1
            self._counters.bytes_discarded += job.bytes

    cdef void _respond(self, uint64_t id, uint8_t operation, int error) noexcept nogil:
        cdef Response response
        memset(&response, 0, sizeof(response))
        response.id = id
        response.operation = operation
        if error:
            self._counters.errors += 1
            response.status = BLKIF_RSP_ERROR
            if error == EOPNOTSUPP and operation not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
                response.status = BLKIF_RSP_EOPNOTSUPP
        # A 32-bit frontend's response differs only in the padding at its end.
        self._ring.put(&response)

    cdef void _publish(self) noexcept nogil:
        if self._ring.push():
            self._counters.notifications += 1
            self._notify_frontend()

    cdef void _notify_frontend(self) noexcept with gil:
        try:
            self._notify()
        except BaseException as error:
            self._failed(error)


def layouts():
    """The sizes of the structures and the offsets of their fields, in bytes."""
    cdef RequestRw *rw = NULL
    cdef RequestDiscard *discard = NULL
    cdef RequestIndirect *indirect = NULL
    cdef Response *response = NULL
    return {
        "request": (sizeof(RequestRw), {
            "operation": <size_t>&rw.operation,
            "nr_segments": <size_t>&rw.nr_segments,
            "handle": <size_t>&rw.handle,
            "id": <size_t>&rw.id,
            "sector_number": <size_t>&rw.sector_number,
            "seg": <size_t>&rw.seg,
        }),
        "discard": (sizeof(RequestDiscard), {
            "operation": <size_t>&discard.operation,
            "flag": <size_t>&discard.flag,
            "handle": <size_t>&discard.handle,
            "id": <size_t>&discard.id,
            "sector_number": <size_t>&discard.sector_number,
            "nr_sectors": <size_t>&discard.nr_sectors,
        }),
        "indirect": (sizeof(RequestIndirect), {
            "operation": <size_t>&indirect.operation,
            "indirect_op": <size_t>&indirect.indirect_op,
            "nr_segments": <size_t>&indirect.nr_segments,
            "id": <size_t>&indirect.id,
            "sector_number": <size_t>&indirect.sector_number,
            "handle": <size_t>&indirect.handle,
            "indirect_grefs": <size_t>&indirect.indirect_grefs,
        }),
        "response": (sizeof(Response), {
            "id": <size_t>&response.id,
            "operation": <size_t>&response.operation,
            "status": <size_t>&response.status,
        }),
        "segment": (sizeof(Segment), {
            "gref": 0,
            "first_sect": <size_t>&rw.seg[0].first_sect - <size_t>&rw.seg,
            "last_sect": <size_t>&rw.seg[0].last_sect - <size_t>&rw.seg,
        }),
    }
