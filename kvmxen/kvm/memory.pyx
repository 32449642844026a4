"""Guest memory: the only place where a guest address becomes a host address.

One memfd holds the machine address space at its own offsets; the hole stays sparse, and
accesses to it are refused. Every access is bounds-checked; a bad one raises GuestFault.
"""

from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE,
    PROT_READ, PROT_WRITE, mmap, munmap,
)

import os

from kvmxen.errors import GuestFault, KvmxenError
from kvmxen.kvm.layout import HOLE_END, HOLE_START, PAGE_SIZE

cdef extern from "sys/mman.h" nogil:
    int madvise(void *where, size_t length, int advice) noexcept
    const int MADV_REMOVE

cdef extern from *:
    """
    static inline uint8_t bit_set(uint8_t *p, uint8_t bit)
    {
        return __atomic_fetch_or(p, bit, __ATOMIC_SEQ_CST) & bit;
    }
    static inline uint8_t bit_clear(uint8_t *p, uint8_t bit)
    {
        return __atomic_fetch_and(p, (uint8_t)~bit, __ATOMIC_SEQ_CST) & bit;
    }
    """
    uint8_t bit_set(uint8_t *p, uint8_t bit) noexcept nogil
    uint8_t bit_clear(uint8_t *p, uint8_t bit) noexcept nogil


# A system call pays off from this many bytes.
cdef uint64_t LARGE = 1 << 16


cdef class GuestMemory:
    """`size` bytes of machine address space from gpa 0, less the hole, in a memfd.

    Untouched pages cost nothing. Raises KvmxenError if the host cannot map it.
    """

    def __cinit__(self, size):
        self.base = NULL
        self.fd = -1
        self.size = size
        self.hole_start = HOLE_START
        self.hole_end = HOLE_END
        self.fd = os.memfd_create("kvmxen-guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        cdef void *where = mmap(NULL, self.size, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_NORESERVE, self.fd, 0)
        if where == MAP_FAILED:
            raise KvmxenError(f"the host cannot map {size >> 20} MiB for the guest; "
                              "give the guest less memory")
        self.base = <uint8_t *>where

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.fd >= 0:
            os.close(self.fd)

    cdef uint8_t *find(self, uint64_t gpa, uint64_t length) noexcept nogil:
        """The host address of [gpa, gpa + length), NULL if any of it is not memory."""
        if length > self.size or gpa > self.size - length:
            return NULL
        if gpa < self.hole_end and gpa + length > self.hole_start:
            return NULL
        return self.base + gpa

    cdef uint8_t *at(self, uint64_t gpa, uint64_t length) except NULL:
        cdef uint8_t *where = self.find(gpa, length)
        if where == NULL:
            raise GuestFault(f"gpa {gpa:#x} + {length:#x}")
        return where

    @property
    def host_address(self):
        """The address in this process of gpa 0, for KVM's memory slots only."""
        return <uint64_t>self.base

    def read(self, uint64_t gpa, uint64_t length):
        """A private copy of `length` bytes at `gpa`; raises GuestFault."""
        return PyBytes_FromStringAndSize(<char *>self.at(gpa, length), length)

    def write(self, uint64_t gpa, const uint8_t[::1] data):
        """Copy `data` to `gpa`; raises GuestFault before anything is written."""
        cdef uint64_t length = data.shape[0]
        cdef uint64_t written = 0
        cdef uint8_t *where
        if not length:
            return
        where = self.at(gpa, length)
        if length >= LARGE and self.fd >= 0:
            # pwrite fills missing pages without zeroing them first, and this process need not map
            # them one by one.
            written = os.pwrite(self.fd, data, gpa)
        if written < length:
            memcpy(where + written, &data[written], length - written)

    def zero(self, uint64_t gpa, uint64_t length):
        """Zero `length` bytes at `gpa`; raises GuestFault."""
        memset(self.at(gpa, length), 0, length)

    def discard(self, uint64_t gpa, uint64_t length):
        """Return the pages [gpa, gpa + length) to the host; they then read as zero."""
        self.at(gpa, length)
        with nogil:
            self.forget(gpa, length)

    cdef void forget(self, uint64_t gpa, uint64_t length) noexcept nogil:
        """`discard` a range that is known to be memory, or empty."""
        if length:
            madvise(self.base + gpa, length, MADV_REMOVE)

    def release(self):
        """Return every page to the host and close the memfd; remaining users of this object read
        zeros."""
        madvise(self.base, self.size, MADV_REMOVE)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def view(self, uint64_t gpa, uint64_t length):
        """A writable memoryview of shared memory, valid as long as this object lives."""
        return PyMemoryView_FromMemory(<char *>self.at(gpa, length), length, PyBUF_WRITE)

    def write_u8(self, uint64_t gpa, uint8_t value):
        """Store one byte at `gpa`; raises GuestFault."""
        self.at(gpa, 1)[0] = value

    def set_bit(self, uint64_t gpa, uint64_t bit):
        """Atomically set bit `bit` of the bitmap at `gpa`; returns whether it was set."""
        return bit_set(self.at(gpa + (bit >> 3), 1), <uint8_t>(1 << (bit & 7))) != 0

    def clear_bit(self, uint64_t gpa, uint64_t bit):
        """Atomically clear bit `bit` of the bitmap at `gpa`; returns whether it was set."""
        return bit_clear(self.at(gpa + (bit >> 3), 1), <uint8_t>(1 << (bit & 7))) != 0

    def test_bit(self, uint64_t gpa, uint64_t bit):
        """Whether bit `bit` of the bitmap at `gpa` is set."""
        return self.at(gpa + (bit >> 3), 1)[0] >> (bit & 7) & 1 != 0

    def read_u32(self, uint64_t gpa):
        """One 32-bit load at `gpa` (aligned for atomicity); raises GuestFault."""
        return (<uint32_t *>self.at(gpa, 4))[0]

    def read_u64(self, uint64_t gpa):
        """One 64-bit load at `gpa` (aligned for atomicity); raises GuestFault."""
        return (<uint64_t *>self.at(gpa, 8))[0]

    def write_u32(self, uint64_t gpa, uint32_t value):
        """One 32-bit store at `gpa`; raises GuestFault."""
        (<uint32_t *>self.at(gpa, 4))[0] = value

    def write_u64(self, uint64_t gpa, uint64_t value):
        """One 64-bit store at `gpa`; raises GuestFault."""
        (<uint64_t *>self.at(gpa, 8))[0] = value

    def fill_u64(self, uint64_t gpa, uint64_t count, uint64_t first, uint64_t step):
        """Store `count` 64-bit values first, first + step, ... from `gpa` on; raises GuestFault."""
        # A count larger than the memory is capped, so that the product does not wrap.
        cdef uint64_t length = min(count, (self.size >> 3) + 1) * 8
        cdef uint64_t *where = <uint64_t *>self.at(gpa, length)
        cdef uint64_t i
        for i in range(count):
            where[i] = first + i * step


cdef class Window:
    """Scattered frames of guest memory, mapped contiguously: a ring of several pages.

    `gpas` are the frames' byte addresses, in order. Raises GuestFault if one is not a frame of
    `memory`, KvmxenError if the host cannot map them. The mapping lives as long as this object.
    """

    def __cinit__(self, GuestMemory memory, gpas):
        cdef uint64_t page = PAGE_SIZE
        cdef uint64_t gpa
        cdef uint64_t offset = 0
        self.base = NULL
        for gpa in gpas:
            if gpa % page:
                raise GuestFault(f"gpa {gpa:#x} is no frame's")
            memory.at(gpa, page)
        self.memory = memory
        self.size = page * len(gpas)
        cdef void *where = mmap(NULL, self.size, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if where == MAP_FAILED:
            raise KvmxenError("the host cannot map a ring: free some memory")
        self.base = <uint8_t *>where
        for gpa in gpas:
            where = mmap(self.base + offset, page, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_FIXED, memory.fd, gpa)
            if where == MAP_FAILED:
                raise KvmxenError("the host cannot map a ring: free some memory")
            offset += page

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    def view(self):
        """A writable memoryview of all frames, valid as long as this object lives."""
        return PyMemoryView_FromMemory(<char *>self.base, self.size, PyBUF_WRITE)
