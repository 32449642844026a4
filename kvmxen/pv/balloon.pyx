"""The frames that a domain has given back to the host, and those that it may still grow by.

Any thread may call these methods. They hold the lock for `_CHUNK` frames at a time, and check
between chunks whether their vCPU must end.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from kvmxen.kvm.memory cimport GuestMemory
from kvmxen.pv.paging cimport PageTables
from kvmxen.pv.gate cimport PvVcpu

import threading

cdef uint64_t _CHUNK = 512


cdef class Balloon:
    """The balloon of the domain with `layout`, `memory` and `tables`. It starts with the frames
    that the domain may grow by.

    `frames` is how many frames are in it.
    """

    def __cinit__(self, GuestMemory memory, PageTables tables, layout):
        self._memory = memory
        self._tables = tables
        self._lock = threading.Lock()
        self._end = layout.max_mfn
        # No bit is set in words below this index.
        self._hint = self._end // 64 + 1
        # One bit for each frame.
        self._held = <uint64_t *>calloc(self._end // 64 + 1, sizeof(uint64_t))
        if self._held == NULL:
            raise MemoryError
        for extent in layout.ram:
            first = max(extent.pfn, layout.nr_pages)
            if first < extent.pfn + extent.frames:
                self._take(extent.mfn + first - extent.pfn, extent.pfn + extent.frames - first)

    def __dealloc__(self):
        free(self._held)

    cdef bint _has(self, uint64_t mfn) noexcept nogil:
        return self._held[mfn // 64] >> (mfn % 64) & 1

    cdef void _take(self, uint64_t mfn, uint64_t count) noexcept nogil:
        """Move `count` frames of the guest, from `mfn` on, into the balloon."""
        cdef uint64_t at
        self.frames += count
        self._hint = min(self._hint, mfn // 64)
        for at in range(mfn, mfn + count):
            self._held[at // 64] |= <uint64_t>1 << (at % 64)

    cdef void _give(self, uint64_t mfn, uint64_t count) noexcept nogil:
        """Move `count` frames, from `mfn` on, from the balloon back to the guest."""
        cdef uint64_t at
        self.frames -= count
        for at in range(mfn, mfn + count):
            self._held[at // 64] &= ~(<uint64_t>1 << (at % 64))

    cdef bint _may_take(self, uint64_t mfn, uint64_t count) noexcept nogil:
        cdef uint64_t i
        for i in range(count):
            if (not self._tables.is_ram(mfn + i) or self._has(mfn + i)
                    or self._tables.has_type(mfn + i)):
                return False
        return True

    def may_take(self, frames):
        """Whether all of `frames` are the guest's, and none is a page table."""
        with self._lock:
            for mfn in frames:
                if not self._may_take(mfn, 1):
                    return False
        return True

    def release(self, PvVcpu vcpu, uint64_t va, uint64_t count, int order):
        """Take the `count` extents of 2^order frames whose first frames are listed at `va`, and
        discard their contents. Returns how many it took before one that the guest may not give.
        """
        cdef uint64_t done = 0, chunk = max(_CHUNK >> order, <uint64_t>1), taken = chunk
        while taken == chunk and done < count and not vcpu.ending:
            with self._lock, nogil:
                taken = self._release(vcpu, va + done * 8, min(chunk, count - done), order)
            done += taken
        return done

    cdef uint64_t _release(
            self, PvVcpu vcpu, uint64_t va, uint64_t count, int order) noexcept nogil:
        cdef uint64_t size = <uint64_t>1 << order
        cdef uint64_t mfn = 0, low = 0, high = 0, done = 0
        while (done < count
                and self._tables.copy_in(vcpu.state.kernel_cr3, va + done * 8, &mfn, 8)
                and self._may_take(mfn, size)):
            self._take(mfn, size)
            # One system call discards frames that are contiguous, in either order.
            if mfn == high:
                high += size
            elif mfn + size == low:
                low = mfn
            else:
                self._memory.forget(low << 12, high - low << 12)
                low, high = mfn, mfn + size
            done += 1
        self._memory.forget(low << 12, high - low << 12)
        return done

    cdef bint _find(self, uint64_t size, uint64_t *mfn) noexcept nogil:
        """Whether the balloon has `size` contiguous frames; if so, sets `mfn` to the first."""
        cdef uint64_t at, run = 0
        while self._hint * 64 < self._end and not self._held[self._hint]:
            self._hint += 1
        at = self._hint * 64
        while at < self._end and run < size:
            if not self._held[at // 64] >> (at % 64):
                # This word has no more frames.
                at = (at // 64 + 1) * 64
                run = 0
                continue
            run = run + 1 if self._has(at) else 0
            at += 1
        mfn[0] = at - size
        return run == size

    def reserve(self, PvVcpu vcpu, uint64_t va, uint64_t count, int order, bint populate):
        """Give the guest `count` extents of 2^order frames, and write their first frames to the
        list at `va`. With `populate` the list holds their pseudo-physical frames, for the
        machine-to-physical table. Returns how many it gave before frames or the list ran out.
        """
        cdef uint64_t done = 0, chunk = max(_CHUNK >> order, <uint64_t>1), given = chunk
        while given == chunk and done < count and not vcpu.ending:
            with self._lock, nogil:
                given = self._reserve(vcpu, va + done * 8, min(chunk, count - done), order,
                                      populate)
            done += given
        return done

    cdef uint64_t _reserve(self, PvVcpu vcpu, uint64_t va, uint64_t count, int order,
                           bint populate) noexcept nogil:
        cdef uint64_t cr3 = vcpu.state.kernel_cr3
        cdef uint64_t size = <uint64_t>1 << order
        cdef uint64_t pfn = 0, mfn = 0, done = 0, i
        while (done < count
                and (not populate or self._tables.copy_in(cr3, va + done * 8, &pfn, 8))
                and self._find(size, &mfn)
                and self._tables.copy_out(cr3, va + done * 8, &mfn, 8)):
            self._give(mfn, size)
            if populate:
                for i in range(size):
                    self._tables.put_m2p(mfn + i, pfn + i)
            done += 1
        return done
