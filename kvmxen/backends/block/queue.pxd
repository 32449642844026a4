from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

from kvmxen.xen.abi.io cimport (
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST, BLKIF_MAX_SEGMENTS_PER_REQUEST,
)
from kvmxen.backends.block.engine cimport MAX_SEGMENTS, Engine, Op
from kvmxen.xen.grants cimport GrantTable
from kvmxen.ring.shared_ring cimport BackRing


# A 64-bit frontend's structures; a test compares them with kvmxen/xen/abi/blkif.py.
cdef struct Segment:
    uint32_t gref
    uint8_t first_sect
    uint8_t last_sect


cdef struct RequestRw:
    uint8_t operation
    uint8_t nr_segments
    uint16_t handle
    uint64_t id
    uint64_t sector_number
    Segment seg[BLKIF_MAX_SEGMENTS_PER_REQUEST]


cdef struct RequestDiscard:
    uint8_t operation
    uint8_t flag
    uint16_t handle
    uint64_t id
    uint64_t sector_number
    uint64_t nr_sectors


cdef struct RequestIndirect:
    uint8_t operation
    uint8_t indirect_op
    uint16_t nr_segments
    uint64_t id
    uint64_t sector_number
    uint16_t handle
    uint32_t indirect_grefs[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST]


cdef union Request:
    RequestRw rw
    RequestDiscard discard
    RequestIndirect indirect


cdef struct Response:
    uint64_t id
    uint8_t operation
    int16_t status


# A request in progress: its remaining steps, and the grants to unmap.
cdef struct Job:
    Op op
    uint64_t id
    uint8_t operation
    uint8_t steps
    int data_kind
    uint64_t bytes
    bint maps_write
    uint32_t ref_count
    uint32_t refs[MAX_SEGMENTS]


cdef struct Counters:
    uint64_t reads
    uint64_t writes
    uint64_t flushes
    uint64_t discards
    uint64_t bytes_read
    uint64_t bytes_written
    uint64_t bytes_discarded
    uint64_t bytes_copied
    uint64_t merges
    uint64_t notifications
    uint64_t errors


cdef class BlockQueue:
    cdef BackRing _ring
    cdef GrantTable _grants
    cdef Engine _engine
    cdef object _notify
    cdef object _failed
    cdef uint64_t _sectors
    cdef uint32_t _sector_mask
    cdef bint _readonly, _discard, _flush, _narrow
    cdef bint _stopping
    cdef Job *_jobs
    cdef Job **_free
    cdef uint32_t _free_count
    cdef uint32_t _in_flight
    cdef Job *_held
    cdef uint8_t **_persistent
    cdef Counters _counters
    cdef void _serve(self) noexcept nogil
    cdef bint _take(self) noexcept nogil
    cdef int _prepare(self, Request *request, Job *job) noexcept nogil
    cdef int _prepare_data(self, Request *request, Job *job) noexcept nogil
    cdef int _prepare_indirect(self, Request *request, Job *job) noexcept nogil
    cdef int _prepare_discard(self, Request *request, Job *job) noexcept nogil
    cdef int _map(self, Job *job, const Segment *segments, uint32_t count, uint64_t sector,
                  bint reads) noexcept nogil
    cdef uint8_t *_page(self, Job *job, uint32_t ref) noexcept nogil
    cdef void _unmap(self, Job *job) noexcept nogil
    cdef void _begin(self, Job *job) noexcept nogil
    cdef void _next_step(self, Job *job, int error) noexcept nogil
    cdef void _finished(self, Op *done) noexcept nogil
    cdef void _count(self, Job *job, int error) noexcept nogil
    cdef void _respond(self, uint64_t id, uint8_t operation, int error) noexcept nogil
    cdef void _publish(self) noexcept nogil
    cdef void _notify_frontend(self) noexcept with gil
