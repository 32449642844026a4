"""The grant table: the frames that the guest shares, their users, and their in-use flags.

A grant in use is pinned: its entry (version 1) or its status word (version 2) shows this to the
guest, which may end only unused grants. A pin keeps its frame, which is the guest's RAM,
whatever the guest writes into the entry meanwhile.

Only the guest grants, to dom0 (our backends) or to itself. There are no grants between guests:
one process is one domain.

Source: xen/include/public/grant_table.h, xen/common/grant_table.c. Any thread may call the
functions that need no GIL.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EBUSY, ERANGE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kvmxen.xen.abi.xen cimport (
    GNTST_bad_copy_arg, GNTST_bad_gntref, GNTST_bad_page, GNTST_eagain, GNTST_general_error,
    GNTST_okay, GNTTAB_NR_RESERVED_ENTRIES, GTF_permit_access, GTF_readonly, GTF_reading,
    GTF_sub_page, GTF_transitive, GTF_type_mask, GTF_writing,
)
from kvmxen.kvm.memory cimport GuestMemory

import errno

from kvmxen.xen.abi.grant_table import GrantStatus
from kvmxen.errors import HypercallError
from kvmxen.kvm.layout import PAGE_SHIFT, PAGE_SIZE, XENHEAP_FRAMES

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *lock, void *attributes) noexcept
    int pthread_mutex_lock(pthread_mutex_t *lock) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *lock) noexcept
    int pthread_mutex_destroy(pthread_mutex_t *lock) noexcept

cdef extern from *:
    """
    static inline uint32_t entry_load(const uint8_t *p)
    {
        return __atomic_load_n((const uint32_t *)p, __ATOMIC_SEQ_CST);
    }
    static inline uint64_t entry_load64(const uint8_t *p)
    {
        return __atomic_load_n((const uint64_t *)p, __ATOMIC_SEQ_CST);
    }
    static inline int entry_swap(uint8_t *p, uint32_t *old, uint32_t new)
    {
        return __atomic_compare_exchange_n((uint32_t *)p, old, new, 0, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    }
    static inline void flags_set(uint16_t *p, uint16_t bits)
    {
        __atomic_fetch_or(p, bits, __ATOMIC_SEQ_CST);
    }
    static inline void flags_clear(uint16_t *p, uint16_t bits)
    {
        __atomic_fetch_and(p, (uint16_t)~bits, __ATOMIC_SEQ_CST);
    }
    """
    uint32_t entry_load(const uint8_t *p) noexcept nogil
    uint64_t entry_load64(const uint8_t *p) noexcept nogil
    int entry_swap(uint8_t *p, uint32_t *old, uint32_t new) noexcept nogil
    void flags_set(uint16_t *p, uint16_t bits) noexcept nogil
    void flags_clear(uint16_t *p, uint16_t bits) noexcept nogil

cdef enum:
    PAGE = 4096
    V1_SIZE = 8
    V2_SIZE = 16
    STATUS_SIZE = 2
    # As many as Xen makes, against a guest that changes an entry all the time.
    ATTEMPTS = 5
    # Xen counts in eight bits.
    MAX_PINS = 255
    MOST_FRAMES = 64
    # For the most frames of version 2 entries.
    STATUS_FRAMES = 8

MAX_FRAMES = MOST_FRAMES
# shared_info comes first, vcpu_info last.
assert 1 + MOST_FRAMES + STATUS_FRAMES < XENHEAP_FRAMES
assert MOST_FRAMES * (PAGE // V2_SIZE) * STATUS_SIZE == STATUS_FRAMES * PAGE
assert PAGE == PAGE_SIZE


class GrantError(Exception):
    """A grant cannot be used; `status` says why."""

    def __init__(self, ref, status):
        self.status = GrantStatus(status)
        super().__init__(f"grant {ref}: {self.status.name.lower().replace('_', ' ')}")


cdef inline bint is_pinned(const Active *act) noexcept nogil:
    return act.readers or act.writers


cdef class GrantTable:
    """The grant table of a domain with `layout`; its frames are in the xenheap.

    It starts as a domain's does: version 1, one frame. `resume` continues one that was used.
    """

    def __cinit__(self, GuestMemory memory, layout):
        cdef uint64_t size = MOST_FRAMES * PAGE
        self._active = NULL
        pthread_mutex_init(&self._lock, NULL)
        self.memory = memory
        self._first_mfn = layout.xenheap_mfn + 1
        self._status_mfn = self._first_mfn + MAX_FRAMES
        self._shared = memory.at(self._first_mfn << PAGE_SHIFT, size)
        self._status = <uint16_t *>memory.at(
            self._status_mfn << PAGE_SHIFT, STATUS_FRAMES * PAGE)
        self._ram_frames[1] = 0
        for i, extent in enumerate(layout.ram):
            self._ram_mfn[i] = extent.mfn
            self._ram_frames[i] = extent.frames
        self.nr_frames = 1
        self.version = 1
        self._active = <Active *>calloc(size // V1_SIZE, sizeof(Active))
        if self._active == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._active)
        pthread_mutex_destroy(&self._lock)

    cdef uint32_t entries(self) noexcept nogil:
        """How many entries the table has."""
        return self.nr_frames * (PAGE // V1_SIZE if self.version == 1 else PAGE // V2_SIZE)

    cdef bint _is_ram(self, uint64_t mfn) noexcept nogil:
        return (mfn - self._ram_mfn[0] < self._ram_frames[0]
                or mfn - self._ram_mfn[1] < self._ram_frames[1])

    # Use of a grant.

    cdef int take(self, uint32_t ref, uint16_t domid, bint write, bint mapping,
                  Active *grant) noexcept nogil:
        """Pin `ref` for `domid` until `give_back`; fills `grant` and returns GNTST_*.

        A sub-page grant can be copied, but not mapped.
        """
        pthread_mutex_lock(&self._lock)
        cdef int status = self._take(ref, domid, write, mapping, grant)
        pthread_mutex_unlock(&self._lock)
        return status

    cdef int _take(self, uint32_t ref, uint16_t domid, bint write, bint mapping,
                   Active *grant) noexcept nogil:
        cdef Active *act
        cdef uint8_t *entry
        cdef uint32_t range_ = 0
        cdef int status
        if ref >= self.entries():
            return GNTST_bad_gntref
        act = self._active + ref
        if is_pinned(act) and (act.domid != domid or act.sub_page and mapping
                               or (act.writers if write else act.readers) == MAX_PINS):
            return GNTST_general_error
        if not is_pinned(act) or (write and not act.writers):
            status = self._mark(ref, act, domid, write,
                                GTF_type_mask | GTF_sub_page if mapping else GTF_type_mask)
            if status != GNTST_okay:
                return status
        if not is_pinned(act):
            act.domid, act.start, act.length, act.sub_page = domid, 0, PAGE, False
            if self.version == 1:
                act.mfn = entry_load(self._shared + ref * V1_SIZE + 4)
            else:
                entry = self._shared + ref * V2_SIZE
                act.mfn = entry_load64(entry + 8)
                if not mapping and entry_load(entry) & GTF_sub_page:
                    range_ = entry_load(entry + 4)
                    act.start, act.length = range_ & 0xffff, range_ >> 16
                    act.sub_page = True
            if not self._is_ram(act.mfn):
                self._reduce(ref, act, write)
                return GNTST_bad_page
        if write:
            act.writers += 1
        else:
            act.readers += 1
        grant[0] = act[0]
        return GNTST_okay

    cdef int _mark(self, uint32_t ref, Active *act, uint16_t domid, bint write,
                   uint32_t mask) noexcept nogil:
        """Show the guest that `ref` is in use, if the entry grants that use (_set_status())."""
        cdef uint8_t *entry = self._shared + ref * (V1_SIZE if self.version == 1 else V2_SIZE)
        cdef uint32_t seen = entry_load(entry)
        cdef uint32_t used = GTF_reading | GTF_writing if write else GTF_reading
        cdef uint32_t again
        cdef int left = ATTEMPTS
        while left:
            left -= 1
            if not is_pinned(act) and (seen & mask != GTF_permit_access or seen >> 16 != domid):
                return GNTST_general_error
            if write and seen & GTF_readonly:
                return GNTST_general_error
            if self.version == 1:
                if entry_swap(entry, &seen, seen | used):
                    return GNTST_okay
                continue
            flags_set(self._status + ref, used)
            # The guest may have ended the grant before it could see the status.
            again = entry_load(entry)
            if again == seen:
                return GNTST_okay
            self._reduce(ref, act, write)
            seen = again
        return GNTST_general_error

    cdef void give_back(self, uint32_t ref, bint write) noexcept nogil:
        """Undo one `take`; the last one shows the guest that the grant is unused."""
        cdef Active *act = self._active + ref
        pthread_mutex_lock(&self._lock)
        if write:
            act.writers -= 1
        else:
            act.readers -= 1
        self._reduce(ref, act, write)
        pthread_mutex_unlock(&self._lock)

    cdef void _reduce(self, uint32_t ref, const Active *act, bint write) noexcept nogil:
        """Clear the in-use flags that no pin needs any more (reduce_status_for_pin())."""
        cdef uint16_t *status = self._status + ref
        cdef uint16_t cleared = 0 if is_pinned(act) else GTF_reading
        if write and not act.writers:
            cleared |= GTF_writing
        if self.version == 1:
            status = <uint16_t *>(self._shared + ref * V1_SIZE)
        if cleared:
            flags_clear(status, cleared)

    # For backends.

    cdef uint8_t *map(self, uint32_t ref, bint write, int *status) noexcept nogil:
        """Map `ref` for a backend until `unmap`; returns the host address of its page.

        NULL on failure; `status` then holds the GNTST_* reason. A backend may keep a mapping as
        long as it likes: a persistent grant is one that it does not unmap.
        """
        cdef Active grant
        status[0] = self.take(ref, 0, write, True, &grant)
        if status[0] != GNTST_okay:
            return NULL
        return self.memory.base + (grant.mfn << 12)

    cdef void unmap(self, uint32_t ref, bint write) noexcept nogil:
        """Undo one `map` with the same `write`."""
        self.give_back(ref, write)

    cdef int copy_from(self, uint32_t ref, uint32_t offset, uint32_t length,
                       uint8_t *to) noexcept nogil:
        """Copy `length` bytes from `offset` of the granted page; returns GNTST_*."""
        cdef Active grant
        cdef int status = self.take(ref, 0, False, False, &grant)
        if status == GNTST_okay:
            status = within(&grant, offset, length)
            if status == GNTST_okay:
                memcpy(to, self.memory.base + (grant.mfn << 12) + offset, length)
            self.give_back(ref, False)
        return status

    cdef int copy_to(self, uint32_t ref, uint32_t offset, uint32_t length,
                     const uint8_t *data) noexcept nogil:
        """Copy `length` bytes to `offset` of the granted page; returns GNTST_*."""
        cdef Active grant
        cdef int status = self.take(ref, 0, True, False, &grant)
        if status == GNTST_okay:
            status = within(&grant, offset, length)
            if status == GNTST_okay:
                memcpy(self.memory.base + (grant.mfn << 12) + offset, data, length)
            self.give_back(ref, True)
        return status

    # The same for Python; a grant that cannot be used raises GrantError.

    def map_frame(self, uint32_t ref, bint write):
        """Map `ref` for a backend until `unmap_frame`; returns the gpa of its frame."""
        return self.pin(ref, 0, write, True)[0]

    def unmap_frame(self, uint32_t ref, bint write):
        """Undo one `map_frame` with the same `write`; raises ValueError if there is none."""
        self.unpin(ref, write)

    def read(self, uint32_t ref, uint32_t offset, uint32_t length):
        """A private copy of `length` bytes from `offset` of the page that `ref` grants to dom0."""
        if length > PAGE:
            raise GrantError(ref, GNTST_bad_copy_arg)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
        cdef int status = self.copy_from(ref, offset, length, <uint8_t *>PyBytes_AS_STRING(data))
        if status != GNTST_okay:
            raise GrantError(ref, status)
        return data

    def write(self, uint32_t ref, uint32_t offset, bytes data):
        """Copy `data` to `offset` of the page that `ref` grants to dom0."""
        if len(data) > PAGE:
            raise GrantError(ref, GNTST_bad_copy_arg)
        cdef int status = self.copy_to(ref, offset, <uint32_t>len(data),
                                       <uint8_t *>PyBytes_AS_STRING(data))
        if status != GNTST_okay:
            raise GrantError(ref, status)

    def pin(self, uint32_t ref, uint16_t domid, bint write, bint mapping):
        """Pin `ref` for `domid` until `unpin`; returns the frame's gpa, start, length (bytes)."""
        cdef Active grant
        cdef int status = self.take(ref, domid, write, mapping, &grant)
        if status != GNTST_okay:
            raise GrantError(ref, status)
        return grant.mfn << PAGE_SHIFT, grant.start, grant.length

    def unpin(self, uint32_t ref, bint write):
        """Undo one `pin` with the same `write`; raises ValueError if there is none."""
        if (ref >= <uint32_t>(MOST_FRAMES * (PAGE // V1_SIZE))
                or not (self._active[ref].writers if write else self._active[ref].readers)):
            raise ValueError(f"grant {ref} is not pinned")
        self.give_back(ref, write)

    def pinned(self):
        """How often each grant in use is pinned: {reference: (for reading, for writing)}."""
        found = {}
        cdef uint32_t ref
        for ref in range(self.entries()):
            if is_pinned(self._active + ref):
                found[ref] = (self._active[ref].readers, self._active[ref].writers)
        return found

    # The table itself.

    @property
    def nr_status_frames(self):
        """How many frames of status words the table has; 0 in version 1."""
        if self.version == 1:
            return 0
        return (self.entries() * STATUS_SIZE + PAGE - 1) // PAGE

    def grow(self, frames):
        """The mfns of the first `frames` frames of the table, which grows if it must.

        Raises HypercallError(EINVAL) beyond MAX_FRAMES.
        """
        if not 0 <= frames <= MAX_FRAMES:
            raise HypercallError(errno.EINVAL)
        pthread_mutex_lock(&self._lock)
        self.nr_frames = max(self.nr_frames, <uint32_t>frames)
        pthread_mutex_unlock(&self._lock)
        return [self._first_mfn + i for i in range(frames)]

    def resume(self, version, frames):
        """Continue a table in the same memory that had this `version` and `nr_frames`.

        It has no pins: each backend maps its grants again. Raises ValueError if there is no such
        table.
        """
        if version not in (1, 2) or not 1 <= frames <= MAX_FRAMES:
            raise ValueError(f"no grant table has version {version} and {frames} frames")
        pthread_mutex_lock(&self._lock)
        self.version, self.nr_frames = version, frames
        pthread_mutex_unlock(&self._lock)

    def status_frames(self, frames):
        """The mfns of the first `frames` frames of status words; raises HypercallError(EINVAL) if
        there are fewer."""
        if not 0 <= frames <= self.nr_status_frames:
            raise HypercallError(errno.EINVAL)
        return [self._status_mfn + i for i in range(frames)]

    def seed(self, uint32_t ref, uint64_t mfn):
        """Grant `mfn` to dom0 in the reserved entry `ref`, as a domain builder does."""
        assert ref < GNTTAB_NR_RESERVED_ENTRIES
        (<uint64_t *>self._shared)[ref] = mfn << 32 | GTF_permit_access

    def set_version(self, version):
        """GNTTABOP_set_version: convert the table to `version` (1 or 2).

        Only the reserved entries are kept. Raises HypercallError: EINVAL for another version,
        EBUSY if other entries are in use, ERANGE if version 1 cannot express a reserved entry.
        """
        if version not in (1, 2):
            raise HypercallError(errno.EINVAL)
        cdef int wanted = version
        pthread_mutex_lock(&self._lock)
        cdef int error = 0 if wanted == self.version else self._convert(wanted)
        pthread_mutex_unlock(&self._lock)
        if error:
            raise HypercallError(error)

    cdef int _convert(self, int version) noexcept nogil:
        cdef uint64_t first[GNTTAB_NR_RESERVED_ENTRIES]
        cdef uint64_t frame
        cdef uint32_t ref, head
        cdef uint32_t reserved = GNTTAB_NR_RESERVED_ENTRIES
        cdef uint8_t *entry
        for ref in range(reserved, self.entries()):
            if is_pinned(self._active + ref):
                return EBUSY
        for ref in range(reserved):
            if self.version == 1:
                first[ref] = entry_load64(self._shared + ref * V1_SIZE)
                continue
            entry = self._shared + ref * V2_SIZE
            head, frame = entry_load(entry), entry_load64(entry + 8)
            if head & GTF_type_mask == GTF_transitive or (
                    head & GTF_type_mask == GTF_permit_access and frame >> 32):
                return ERANGE
            first[ref] = 0
            if head & GTF_type_mask == GTF_permit_access:
                first[ref] = frame << 32 | head | self._status[ref]
        memset(self._shared, 0, self.nr_frames * PAGE)
        memset(self._status, 0, STATUS_FRAMES * PAGE)
        for ref in range(reserved):
            if version == 1:
                (<uint64_t *>self._shared)[ref] = first[ref]
                continue
            entry = self._shared + ref * V2_SIZE
            self._status[ref] = first[ref] & (GTF_reading | GTF_writing)
            (<uint64_t *>entry)[0] = <uint32_t>first[ref] ^ self._status[ref]
            (<uint64_t *>entry)[1] = first[ref] >> 32
        self.version = version
        return 0

    def swap(self, uint32_t ref_a, uint32_t ref_b):
        """GNTTABOP_swap_grant_ref: swap two entries; returns a GrantStatus."""
        pthread_mutex_lock(&self._lock)
        cdef int status = self._swap(ref_a, ref_b)
        pthread_mutex_unlock(&self._lock)
        return GrantStatus(status)

    cdef int _swap(self, uint32_t ref_a, uint32_t ref_b) noexcept nogil:
        cdef uint32_t size = V1_SIZE if self.version == 1 else V2_SIZE
        cdef uint8_t *a = self._shared + ref_a * size
        cdef uint8_t *b = self._shared + ref_b * size
        cdef uint8_t kept[V2_SIZE]
        cdef uint16_t status
        if ref_a >= self.entries() or ref_b >= self.entries():
            return GNTST_bad_gntref
        if ref_a == ref_b:
            return GNTST_okay
        if is_pinned(self._active + ref_a) or is_pinned(self._active + ref_b):
            return GNTST_eagain
        memcpy(kept, a, size)
        memcpy(a, b, size)
        memcpy(b, kept, size)
        if self.version == 2:
            status = self._status[ref_a]
            self._status[ref_a] = self._status[ref_b]
            self._status[ref_b] = status
        return GNTST_okay


cdef inline int within(const Active *grant, uint32_t offset, uint32_t length) noexcept nogil:
    """GNTST_* for a copy of [offset, offset + length) of a page that `grant` grants in part."""
    cdef uint64_t end = <uint64_t>offset + length
    if end > PAGE:
        return GNTST_bad_copy_arg
    if offset < grant.start or end > <uint64_t>grant.start + grant.length:
        return GNTST_general_error
    return GNTST_okay
