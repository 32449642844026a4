"""PV page tables: walks, entries that hypercalls install, pinning, base pointers.

The guest's own tables are the CPU's. Each entry that a hypercall installs or a pin finds is
checked (its frame must be the guest's) and gets the user bit, since the guest's kernel runs
in ring 3. The host's stores are atomic and at once visible to the host's walks; a KVM that
shadows page tables is made to see them by the gate's touch (vcpu.touch).

Nothing is remembered of which frame is a table of which level, but for pins: guests reuse
table frames without telling.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy

from kvmxen.memory cimport GuestMemory
from kvmxen.vcpu cimport Vcpu

import errno

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.layout import XENHEAP_FRAMES

cdef extern from *:
    """
    static inline void pte_set(uint64_t *p, uint64_t v)
    {
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
    }
    static inline uint64_t pte_get(const uint64_t *p)
    {
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);
    }
    static inline void pte_or(uint64_t *p, uint64_t bits)
    {
        __atomic_fetch_or(p, bits, __ATOMIC_SEQ_CST);
    }
    static inline int pte_swap(uint64_t *p, uint64_t old, uint64_t new)
    {
        return __atomic_compare_exchange_n(p, &old, new, 0, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    }
    """
    void pte_set(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t pte_get(const uint64_t *p) noexcept nogil
    void pte_or(uint64_t *p, uint64_t bits) noexcept nogil
    int pte_swap(uint64_t *p, uint64_t old, uint64_t new) noexcept nogil

cdef uint64_t PRESENT = 0x1
cdef uint64_t WRITE = 0x2
cdef uint64_t USER = 0x4
cdef uint64_t ACCESSED = 0x20
cdef uint64_t DIRTY = 0x40
cdef uint64_t LARGE = 0x80
cdef uint64_t FRAME = 0x000ffffffffff000
# A guest's L4 slots 256 to 271 are Xen's (xen/include/asm-x86/config.h).
cdef int XEN_FIRST = 256
cdef int XEN_SLOTS = 16
# Of these we use the first.
cdef int OUR_SLOTS = 4

# MMU_MACHPHYS_UPDATE and MMU_PT_UPDATE_PRESERVE_AD, in a request's two low bits.
cdef uint64_t MACHPHYS_UPDATE = 1
cdef uint64_t PRESERVE_AD = 2

# Page-fault error code bits.
cdef uint64_t PF_PRESENT = 1
cdef uint64_t PF_WRITE = 2


cdef inline int slot_of(uint64_t va, int level) noexcept nogil:
    return <int>(va >> (12 + 9 * (level - 1))) & 511


cdef inline bint is_canonical(uint64_t va) noexcept nogil:
    return (<long long>(va << 16)) >> 16 == <long long>va


cdef class PageTables:
    """A domain's page tables over `memory` laid out by `layout`.

    `slots` are the shim's L4 entries, `touch` says that this host's KVM sees a store to a live
    entry only when the guest makes it.
    """

    def __cinit__(self, GuestMemory memory, layout, slots, bint touch):
        self.memory = memory
        self._levels_gpa = layout.levels_gpa
        self._touch = touch
        self._ram_frames[1] = 0
        for i, extent in enumerate(layout.ram):
            self._ram_mfn[i] = extent.mfn
            self._ram_frames[i] = extent.frames
        self._heap_mfn = layout.xenheap_mfn
        self._heap_frames = XENHEAP_FRAMES
        self._m2p_gpa = layout.m2p_gpa
        for i in range(OUR_SLOTS):
            self._pinned_slots[i] = slots.pinned[i]
            self._kernel_slots[i] = slots.kernel[i]
            self._user_slots[i] = slots.user[i]
            self._shared_slots[i] = slots.shared[i]
        self._seen_frames = layout.max_mfn
        self._seen = <uint32_t *>calloc(self._seen_frames, sizeof(uint32_t))
        if self._seen == NULL:
            raise MemoryError
        self._epoch = 0

    def __dealloc__(self):
        free(self._seen)

    # Whose frame is it?

    cdef bint is_ram(self, uint64_t mfn) noexcept nogil:
        return (mfn - self._ram_mfn[0] < self._ram_frames[0]
                or mfn - self._ram_mfn[1] < self._ram_frames[1])

    cdef bint may_map(self, uint64_t mfn) noexcept nogil:
        return self.is_ram(mfn) or mfn - self._heap_mfn < self._heap_frames

    def owns(self, uint64_t mfn):
        """Whether machine frame `mfn` is the guest's RAM."""
        return bool(self.is_ram(mfn))

    # Walks.

    cdef uint64_t *entry(self, uint64_t table_gpa, int slot) noexcept nogil:
        if not self.is_ram(table_gpa >> 12):
            return NULL
        return <uint64_t *>self.memory.find((table_gpa & FRAME) + slot * 8, 8)

    cdef uint64_t *leaf(self, uint64_t cr3, uint64_t va) noexcept nogil:
        """The L1 entry of `va` under the L4 at `cr3`, NULL where a level is missing."""
        cdef uint64_t table = cr3
        cdef uint64_t *where
        cdef uint64_t value
        cdef int level
        if not is_canonical(va):
            return NULL
        if XEN_FIRST <= slot_of(va, 4) < XEN_FIRST + XEN_SLOTS:
            return NULL
        for level in range(4, 1, -1):
            where = self.entry(table, slot_of(va, level))
            if where == NULL:
                return NULL
            value = pte_get(where)
            if not value & PRESENT or value & LARGE:
                return NULL
            table = value & FRAME
        return self.entry(table, slot_of(va, 1))

    cdef uint64_t gpa_of(self, uint64_t cr3, uint64_t va, bint write) except? 0:
        cdef uint64_t *where = self.leaf(cr3, va)
        cdef uint64_t value
        cdef uint64_t used = ACCESSED | DIRTY if write else ACCESSED
        if where == NULL:
            raise GuestFault(f"va {va:#x}")
        value = pte_get(where)
        if (not value & PRESENT or (write and not value & WRITE)
                or not self.may_map((value & FRAME) >> 12)):
            raise GuestFault(f"va {va:#x}")
        if value & used != used:
            pte_or(where, used)
        return value & FRAME | va & 0xfff

    def translate(self, uint64_t cr3, uint64_t va, bint write=False):
        """The gpa of `va` under the L4 at gpa `cr3`; raises GuestFault where the guest could
        not access it itself."""
        return self.gpa_of(cr3, va, write)

    def read(self, uint64_t cr3, uint64_t va, uint64_t length):
        """A private copy of `length` (at most 64 KiB) bytes at `va`; raises GuestFault."""
        cdef uint64_t done = 0, count
        if length > 0x10000:
            raise GuestFault(f"va {va:#x} + {length:#x}")
        cdef bytearray out = bytearray(length)
        cdef uint8_t *to = <uint8_t *>(<char *>out)
        while done < length:
            count = min(length - done, 4096 - (va + done & 0xfff))
            memcpy(to + done, self.memory.at(self.gpa_of(cr3, va + done, False), count), count)
            done += count
        return bytes(out)

    def write(self, uint64_t cr3, uint64_t va, const uint8_t[::1] data):
        """Copy `data` to `va`; raises GuestFault, and what lies before the fault is written."""
        cdef uint64_t done = 0, count, length = data.shape[0]
        while done < length:
            count = min(length - done, 4096 - (va + done & 0xfff))
            memcpy(self.memory.at(self.gpa_of(cr3, va + done, True), count), &data[done], count)
            done += count

    # Entries.

    cdef uint64_t sanitise(self, uint64_t value) except? 0:
        if not value & PRESENT:
            return value
        if value & LARGE or not self.may_map((value & FRAME) >> 12):
            raise HypercallError(errno.EINVAL)
        return value | USER

    cdef int store(self, Vcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad) except -1:
        cdef uint64_t *where = <uint64_t *>self.memory.at(gpa, 8)
        cdef uint64_t old = pte_get(where)
        cdef uint64_t new = value
        if keep_ad:
            while True:
                new = value | old & (ACCESSED | DIRTY)
                if pte_swap(where, old, new):
                    break
                old = pte_get(where)
        else:
            pte_set(where, new)
        if self._touch and old & PRESENT and old != new:
            vcpu.touch(gpa)
        return 0

    def update(self, Vcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad=False):
        """MMU_NORMAL_PT_UPDATE (or PRESERVE_AD) of the entry at `gpa`.

        Raises HypercallError(EINVAL) where the entry or its frame is not the guest's.
        """
        cdef uint64_t mfn = gpa >> 12
        if gpa & 7 or not self.is_ram(mfn):
            raise HypercallError(errno.EINVAL)
        if (XEN_FIRST <= <int>((gpa & 0xfff) >> 3) < XEN_FIRST + XEN_SLOTS
                and (self.level(mfn) == 4 or mfn == vcpu.state.kernel_cr3 >> 12
                     or mfn == vcpu.state.user_cr3 >> 12)):
            raise HypercallError(errno.EINVAL)
        value = self.sanitise(value)
        # A frame that is shared with the guest is data: it must not become a table.
        if (value & PRESENT and not self.is_ram((value & FRAME) >> 12)
                and self.finds(vcpu, mfn, 2)):
            raise HypercallError(errno.EINVAL)
        self.store(vcpu, gpa, value, keep_ad)

    def update_many(self, Vcpu vcpu, uint64_t requests, uint64_t count):
        """The `count` struct mmu_update at `requests`.

        Returns how many were done before one failed, and that one's errno (0: all are done).
        """
        cdef uint64_t i, pointer, value
        for i in range(count):
            try:
                pointer = self.load(vcpu.state.kernel_cr3, requests + i * 16)
                value = self.load(vcpu.state.kernel_cr3, requests + i * 16 + 8)
                if pointer & 3 == MACHPHYS_UPDATE:
                    self.set_m2p(pointer >> 12, value)
                else:
                    self.update(vcpu, pointer & ~<uint64_t>3, value,
                                pointer & 3 == PRESERVE_AD)
            except HypercallError as error:
                return i, error.errno
        return count, 0

    cdef uint64_t load(self, uint64_t cr3, uint64_t va) except? 0:
        """The 64-bit word at `va`, read once."""
        if va & 7:
            return int.from_bytes(self.read(cr3, va, 8), "little")
        return (<uint64_t *>self.memory.at(self.gpa_of(cr3, va, False), 8))[0]

    def set_m2p(self, uint64_t mfn, uint64_t pfn):
        """MMU_MACHPHYS_UPDATE: machine frame `mfn` is pseudo-physical frame `pfn`.

        Raises HypercallError(EINVAL) for a frame that is not the guest's.
        """
        if not self.is_ram(mfn):
            raise HypercallError(errno.EINVAL)
        (<uint64_t *>self.memory.at(self._m2p_gpa + mfn * 8, 8))[0] = pfn

    def update_va(self, Vcpu vcpu, uint64_t va, uint64_t value):
        """update_va_mapping's store: the L1 entry of `va` in the current address space.

        Raises HypercallError(EINVAL) where there is no such entry or its frame is foreign.
        """
        cdef uint64_t *where = self.leaf(vcpu.state.kernel_cr3, va)
        if where == NULL:
            raise HypercallError(errno.EINVAL)
        self.store(vcpu, <uint64_t>(<uint8_t *>where - self.memory.base),
                   self.sanitise(value), False)

    # Pins and base pointers.

    cdef uint32_t new_walk(self) noexcept nogil:
        self._epoch = (self._epoch + 1) & 0xfffffff
        if self._epoch == 0:
            self._epoch = 1
        return self._epoch

    cdef bint first_visit(self, uint32_t walk, uint64_t mfn, int level) noexcept nogil:
        """Whether `walk` meets the table `mfn` as one of `level` for the first time.

        It need not look at it again, so that a guest cannot make a walk endless.
        """
        cdef uint32_t stamp = self._seen[mfn]
        if stamp >> 4 != walk:
            stamp = walk << 4
        if stamp >> (level - 1) & 1:
            return False
        self._seen[mfn] = stamp | 1 << (level - 1)
        return True

    cdef int adopt(self, Vcpu vcpu, uint32_t walk, uint64_t mfn, int level) except -1:
        """Check every entry of the table `mfn` and of those below, and add the user bit."""
        cdef uint64_t *where
        cdef uint64_t old, new
        cdef int slot
        if not self.first_visit(walk, mfn, level):
            return 0
        where = <uint64_t *>self.memory.at(mfn << 12, 4096)
        for slot in range(512):
            old = pte_get(where + slot)
            if not old & PRESENT:
                continue
            new = self.sanitise(old)
            if new != old:
                pte_or(where + slot, USER)
                # A leaf that only allows more is found by the fault that it no longer causes.
                if self._touch and level > 1:
                    vcpu.touch((mfn << 12) + slot * 8)
            if level > 1:
                if not self.is_ram((old & FRAME) >> 12):
                    raise HypercallError(errno.EINVAL)
                self.adopt(vcpu, walk, (old & FRAME) >> 12, level - 1)
        return 0

    cdef int adopt_l4(self, Vcpu vcpu, uint64_t mfn) except -1:
        cdef uint32_t walk = self.new_walk()
        cdef uint64_t *where = <uint64_t *>self.memory.at(mfn << 12, 4096)
        cdef uint64_t *known = NULL
        cdef uint64_t old, new
        cdef int slot
        if vcpu.state.kernel_cr3 and vcpu.state.kernel_cr3 >> 12 != mfn:
            known = <uint64_t *>self.memory.at(vcpu.state.kernel_cr3, 4096)
        for slot in range(512):
            old = pte_get(where + slot)
            if XEN_FIRST <= slot < XEN_FIRST + XEN_SLOTS or not old & PRESENT:
                continue
            # The kernel's half is shared: what the table in use holds was checked before.
            if known != NULL and slot > XEN_FIRST and old == pte_get(known + slot):
                continue
            new = self.sanitise(old)
            if new != old:
                self.store(vcpu, (mfn << 12) + slot * 8, new, False)
            if not self.is_ram((old & FRAME) >> 12):
                raise HypercallError(errno.EINVAL)
            self.adopt(vcpu, walk, (old & FRAME) >> 12, 3)
        if not self._has_shim(mfn):
            self._show(vcpu, mfn, self._pinned_slots)
            for slot in range(XEN_FIRST + OUR_SLOTS, XEN_FIRST + XEN_SLOTS):
                self.store(vcpu, (mfn << 12) + slot * 8, 0, False)
        return 0

    def pin(self, Vcpu vcpu, uint64_t mfn, int level):
        """MMUEXT_PIN_L<level>_TABLE; raises HypercallError(EINVAL)."""
        if not self.is_ram(mfn):
            raise HypercallError(errno.EINVAL)
        if level == 4:
            self.adopt_l4(vcpu, mfn)
        else:
            self.adopt(vcpu, self.new_walk(), mfn, level)
        self.memory.at(self._levels_gpa + mfn, 1)[0] = level

    def unpin(self, uint64_t mfn):
        """MMUEXT_UNPIN_TABLE; raises HypercallError(EINVAL) where it is not pinned."""
        if not self.level(mfn):
            raise HypercallError(errno.EINVAL)
        self.memory.at(self._levels_gpa + mfn, 1)[0] = 0

    def set_kernel_base(self, Vcpu vcpu, uint64_t mfn):
        """MMUEXT_NEW_BASEPTR: the L4 that the guest's kernel runs on."""
        self._need_l4(vcpu, mfn)
        vcpu.state.kernel_cr3 = mfn << 12
        self._show_both(vcpu, mfn, vcpu.state.user_cr3 >> 12)

    def set_user_base(self, Vcpu vcpu, uint64_t mfn):
        """MMUEXT_NEW_USER_BASEPTR: the L4 for user mode, 0 for none.

        User code does not see a dispatcher in ring 3, nor the machine-to-physical table where
        its kernel has tables of its own.
        """
        if mfn:
            self._need_l4(vcpu, mfn)
        vcpu.state.user_cr3 = mfn << 12
        self._show_both(vcpu, vcpu.state.kernel_cr3 >> 12, mfn)

    cdef bint _has_shim(self, uint64_t mfn) noexcept nogil:
        """Whether Xen's slots of the L4 `mfn`, which is RAM, are as we leave them."""
        cdef const uint64_t *slots = self.entry(mfn << 12, XEN_FIRST)
        cdef size_t size = OUR_SLOTS * sizeof(uint64_t)
        cdef int slot
        for slot in range(OUR_SLOTS, XEN_SLOTS):
            if slots[slot]:
                return False
        return (memcmp(slots, self._kernel_slots, size) == 0
                or memcmp(slots, self._user_slots, size) == 0
                or memcmp(slots, self._pinned_slots, size) == 0
                or memcmp(slots, self._shared_slots, size) == 0)

    cdef int _show(self, Vcpu vcpu, uint64_t mfn, const uint64_t *slots) except -1:
        """Put `slots` into the L4 `mfn`, if it is RAM."""
        cdef int slot
        if not self.is_ram(mfn):
            return 0
        for slot in range(OUR_SLOTS):
            if pte_get(self.entry(mfn << 12, XEN_FIRST + slot)) != slots[slot]:
                self.store(vcpu, (mfn << 12) + (XEN_FIRST + slot) * 8, slots[slot], False)
                vcpu.flush_tlb()
        return 0

    cdef int _show_both(self, Vcpu vcpu, uint64_t kernel, uint64_t user) except -1:
        """Give the L4 tables of the vCPU's kernel and of its user code, which may be one, what
        each is to see; the table that was both is one of them."""
        if kernel == user:
            self._show(vcpu, kernel, self._shared_slots)
            return 0
        self._show(vcpu, kernel, self._kernel_slots)
        self._show(vcpu, user, self._user_slots)
        return 0

    cdef int _need_l4(self, Vcpu vcpu, uint64_t mfn) except -1:
        if not self.is_ram(mfn):
            raise HypercallError(errno.EINVAL)
        if not self._has_shim(mfn):
            self.adopt_l4(vcpu, mfn)
        return 0

    def install(self, uint64_t cr3):
        """Pin the domain builder's L4 at gpa `cr3`, as Xen's does: with the shim's entries."""
        self.memory.at(self._levels_gpa + (cr3 >> 12), 1)[0] = 4
        for slot in range(XEN_SLOTS):
            self.memory.write_u64(cr3 + (XEN_FIRST + slot) * 8,
                                  self._kernel_slots[slot] if slot < OUR_SLOTS else 0)

    cpdef int level(self, uint64_t mfn) except -1:
        """The level of page table that frame `mfn` is pinned as, 0 for none."""
        if not self.is_ram(mfn):
            return 0
        return self.memory.at(self._levels_gpa + mfn, 1)[0]

    # Faults.

    cdef bint reaches(self, uint32_t walk, uint64_t table_gpa, int level,
                      uint64_t mfn, int lowest) noexcept nogil:
        """Whether frame `mfn` is a table below the table of `level` at `table_gpa`, and of
        level `lowest` or higher."""
        cdef uint64_t *where
        cdef uint64_t value
        cdef int slot
        if not self.is_ram(table_gpa >> 12) or not self.first_visit(walk, table_gpa >> 12, level):
            return False
        for slot in range(512):
            if level == 4 and XEN_FIRST <= slot < XEN_FIRST + XEN_SLOTS:
                continue
            where = self.entry(table_gpa, slot)
            value = pte_get(where)
            if not value & PRESENT or not self.is_ram((value & FRAME) >> 12):
                continue
            if (value & FRAME) >> 12 == mfn:
                return True
            if level - 1 > lowest and self.reaches(walk, value & FRAME, level - 1, mfn, lowest):
                return True
        return False

    def is_table(self, Vcpu vcpu, uint64_t mfn):
        """Whether frame `mfn` is pinned or a table of a pinned or current address space."""
        return bool(self.finds(vcpu, mfn, 1))

    cdef bint finds(self, Vcpu vcpu, uint64_t mfn, int lowest) except -1:
        """is_table, for tables of level `lowest` and higher."""
        cdef uint32_t walk = self.new_walk()
        cdef const uint8_t *levels
        cdef const uint8_t *found
        cdef uint64_t i, count
        if self.level(mfn) >= lowest or mfn == vcpu.state.kernel_cr3 >> 12:
            return True
        for i in range(2):
            count = self._ram_frames[i]
            if not count:
                break
            levels = self.memory.at(self._levels_gpa + self._ram_mfn[i], count)
            found = <const uint8_t *>memchr(levels, 4, count)
            while found != NULL:
                if self.reaches(walk, (self._ram_mfn[i] + (found - levels)) << 12, 4, mfn, lowest):
                    return True
                found += 1
                found = <const uint8_t *>memchr(found, 4, count - (found - levels))
        return self.reaches(walk, vcpu.state.kernel_cr3, 4, mfn, lowest)

    def repair(self, Vcpu vcpu):
        """Whether the guest kernel's page fault was ours, and is mended: retry, do not forward.

        Ours are: a present entry without the user bit, which the kernel wrote itself into a
        table that was not pinned; and a direct write to a page table that the kernel had
        asked to be mapped read-only, whose mapping becomes writable.
        """
        cdef uint64_t va = vcpu.cr2
        cdef uint64_t table = vcpu.state.kernel_cr3
        cdef uint64_t *where
        cdef uint64_t value
        cdef int level
        cdef bint mended = False
        if (not vcpu.error_code & PF_PRESENT or not is_canonical(va)
                or XEN_FIRST <= slot_of(va, 4) < XEN_FIRST + XEN_SLOTS):
            return False
        for level in range(4, 0, -1):
            where = self.entry(table, slot_of(va, level))
            if where == NULL:
                return False
            value = pte_get(where)
            if not value & PRESENT or value & LARGE or not self.may_map((value & FRAME) >> 12):
                return False
            if not value & USER:
                pte_or(where, USER)
                mended = True
            elif (level == 1 and vcpu.error_code & PF_WRITE and not value & WRITE
                  and slot_of(va, 4) > XEN_FIRST
                  and self.is_table(vcpu, (value & FRAME) >> 12)):
                pte_or(where, WRITE)
                mended = True
            if mended and self._touch and level > 1:
                vcpu.touch((table & FRAME) + slot_of(va, level) * 8)
            table = value & FRAME
        if mended:
            vcpu.invlpg(va)
        return mended
