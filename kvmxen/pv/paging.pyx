"""PV page tables: walks, entries that hypercalls install, pinning, base pointers.

The CPU uses the guest's own tables. Each entry that a hypercall installs or a pin finds is
checked (its frame must be the guest's) and gets the user bit, since the guest's kernel runs
in ring 3. The host's stores are atomic, and the host's walks see them at once; a KVM that
shadows page tables sees them after the gate's touch (vcpu.touch).

Counts tell which frame is a table, and of which level (shim/types.h); the dispatcher keeps them
too. Long operations run without the GIL, and end early once their vCPU is `ending`.
"""

from libc.errno cimport EFAULT, EINVAL
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from kvmxen.xen.abi.x86 cimport (
    PF_PRESENT, PF_WRITE, PTE_ACCESSED, PTE_DIRTY, PTE_FRAME, PTE_LARGE, PTE_PRESENT, PTE_USER,
    PTE_WRITE, is_canonical,
)
from kvmxen.xen.abi.xen cimport (
    MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD, XEN_FIRST_SLOT, XEN_SLOTS,
)
from kvmxen.kvm.memory cimport GuestMemory
from kvmxen.pv.gate cimport PvVcpu

from kvmxen.errors import GuestFault, HypercallError
from kvmxen.kvm.layout import HOLE_END, HOLE_START, XENHEAP_FRAMES

cdef uint64_t IO_FIRST = HOLE_START >> 12
cdef uint64_t IO_FRAMES = HOLE_END - HOLE_START >> 12

cdef extern from "errno.h":
    const int ECANCELED

cdef extern from "pv/shim/types.h":
    const uint64_t TYPE_UPPER
    uint64_t TYPE_COUNT(int level) noexcept nogil
    bint type_is(uint64_t type, int level) noexcept nogil
    int type_pinned(uint64_t type) noexcept nogil
    bint type_get(uint64_t *where, int level) noexcept nogil
    bint type_put(uint64_t *where, int level) noexcept nogil
    uint64_t type_pin(uint64_t *where, int level) noexcept nogil

cdef extern from *:
    """
    static inline uint64_t pte_exchange(uint64_t *p, uint64_t v)
    {
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
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
    uint64_t pte_exchange(uint64_t *p, uint64_t v) noexcept nogil
    uint64_t pte_get(const uint64_t *p) noexcept nogil
    void pte_or(uint64_t *p, uint64_t bits) noexcept nogil
    int pte_swap(uint64_t *p, uint64_t old, uint64_t new) noexcept nogil

# We use the first of Xen's L4 slots.
cdef int OUR_SLOTS = 4


cdef inline int slot_of(uint64_t va, int level) noexcept nogil:
    return <int>(va >> (12 + 9 * (level - 1))) & 511


cdef inline bint is_xen_slot(int slot) noexcept nogil:
    return XEN_FIRST_SLOT <= slot < XEN_FIRST_SLOT + XEN_SLOTS


cdef int check(int error) except -1:
    """Raise the exception for the errno `error`; does nothing if it is 0."""
    if error:
        raise GuestFault() if error == EFAULT else HypercallError(error)
    return 0


cdef inline bint is_io(uint64_t mfn) noexcept nogil:
    """Whether a PC has devices at the frame. A domain has none, and Xen refuses the entry; but
    Linux since 6.16 reads an AMD register there and crashes if it fails. All ones satisfy it."""
    return mfn - IO_FIRST < IO_FRAMES


cdef class PageTables:
    """A domain's page tables in `memory`, which has `layout`.

    `slots` are the shim's L4 entries. `touch` says that this host's KVM sees a store to a live
    entry only if the guest makes it.
    """

    def __cinit__(self, GuestMemory memory, layout, slots, bint touch):
        self.memory = memory
        self._types_gpa = layout.types_gpa
        self._touch = touch
        self._ram_frames[1] = 0
        for i, extent in enumerate(layout.ram):
            self._ram_mfn[i] = extent.mfn
            self._ram_frames[i] = extent.frames
        self._heap_mfn = layout.xenheap_mfn
        self._heap_frames = XENHEAP_FRAMES
        self._m2p_gpa = layout.m2p_gpa
        self._absent_gpa = layout.absent_mfn << 12
        for i in range(OUR_SLOTS):
            self._pinned_slots[i] = slots.pinned[i]
            self._kernel_slots[i] = slots.kernel[i]
            self._user_slots[i] = slots.user[i]
            self._shared_slots[i] = slots.shared[i]

    def create(self):
        """Fill the frame that stands for absent I/O memory, which reads as all ones."""
        memset(self.memory.find(self._absent_gpa, 4096), 0xff, 4096)

    # Ownership of frames.

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
        return <uint64_t *>self.memory.find((table_gpa & PTE_FRAME) + slot * 8, 8)

    cdef uint64_t *leaf(self, uint64_t cr3, uint64_t va) noexcept nogil:
        """The L1 entry of `va` under the L4 at `cr3`, NULL if a level is missing."""
        cdef uint64_t table = cr3
        cdef uint64_t *where
        cdef uint64_t value
        cdef int level
        if not is_canonical(va):
            return NULL
        if is_xen_slot(slot_of(va, 4)):
            return NULL
        for level in range(4, 1, -1):
            where = self.entry(table, slot_of(va, level))
            if where == NULL:
                return NULL
            value = pte_get(where)
            if not value & PTE_PRESENT or value & PTE_LARGE:
                return NULL
            table = value & PTE_FRAME
        return self.entry(table, slot_of(va, 1))

    cdef bint find(self, uint64_t cr3, uint64_t va, bint write, uint64_t *gpa) noexcept nogil:
        """Whether the guest could access `va` itself; if so, sets its gpa."""
        cdef uint64_t *where = self.leaf(cr3, va)
        cdef uint64_t value
        cdef uint64_t used = PTE_ACCESSED | PTE_DIRTY if write else PTE_ACCESSED
        if where == NULL:
            return False
        value = pte_get(where)
        if (not value & PTE_PRESENT or (write and not value & PTE_WRITE)
                or not self.may_map((value & PTE_FRAME) >> 12)):
            return False
        if value & used != used:
            pte_or(where, used)
        gpa[0] = value & PTE_FRAME | va & 0xfff
        return True

    cdef uint64_t gpa_of(self, uint64_t cr3, uint64_t va, bint write) except? 0:
        cdef uint64_t gpa = 0
        if not self.find(cr3, va, write, &gpa):
            raise GuestFault(f"va {va:#x}")
        return gpa

    def translate(self, uint64_t cr3, uint64_t va, bint write=False):
        """The gpa of `va` under the L4 at gpa `cr3`; raises GuestFault if the guest could not
        access it itself."""
        return self.gpa_of(cr3, va, write)

    cdef bint copy_in(self, uint64_t cr3, uint64_t va, void *to, uint64_t length) noexcept nogil:
        """Copy `length` bytes at `va`, once; returns whether all are mapped."""
        cdef uint64_t done = 0, count, gpa = 0
        while done < length:
            count = min(length - done, 4096 - (va + done & 0xfff))
            if not self.find(cr3, va + done, False, &gpa):
                return False
            memcpy(<uint8_t *>to + done, self.memory.find(gpa, count), count)
            done += count
        return True

    def read(self, uint64_t cr3, uint64_t va, uint64_t length):
        """A private copy of `length` (at most 64 KiB) bytes at `va`; raises GuestFault."""
        if length > 0x10000:
            raise GuestFault(f"va {va:#x} + {length:#x}")
        cdef bytearray out = bytearray(length)
        if not self.copy_in(cr3, va, <char *>out, length):
            raise GuestFault(f"va {va:#x} + {length:#x}")
        return bytes(out)

    cdef bint copy_out(self, uint64_t cr3, uint64_t va, const void *data,
                       uint64_t length) noexcept nogil:
        """Copy `length` bytes to `va`, up to the first fault; returns whether all are copied."""
        cdef uint64_t done = 0, count, gpa = 0
        while done < length:
            count = min(length - done, 4096 - (va + done & 0xfff))
            if not self.find(cr3, va + done, True, &gpa):
                return False
            memcpy(self.memory.find(gpa, count), <const uint8_t *>data + done, count)
            done += count
        return True

    def write(self, uint64_t cr3, uint64_t va, const uint8_t[::1] data):
        """Copy `data` to `va`; raises GuestFault after it has written what precedes the fault."""
        if data.shape[0] and not self.copy_out(cr3, va, &data[0], data.shape[0]):
            raise GuestFault(f"va {va:#x} + {data.shape[0]:#x}")

    # Entries. Long operations return 0, an errno, or ECANCELED once the vCPU is ending.

    cdef uint64_t *type_of(self, uint64_t mfn) noexcept nogil:
        """The type of the frame `mfn`, which is RAM."""
        return <uint64_t *>self.memory.find(self._types_gpa + mfn * 8, 8)

    cdef bint is_valid(self, uint64_t value) noexcept nogil:
        """Whether the present entry `value` may be installed."""
        return not value & PTE_LARGE and self.may_map((value & PTE_FRAME) >> 12)

    cdef int store(self, PvVcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad,
                   uint64_t *before) except -1 nogil:
        cdef uint64_t *where = <uint64_t *>self.memory.find(gpa, 8)
        cdef uint64_t old = 0
        cdef uint64_t new = value
        if keep_ad:
            while True:
                old = pte_get(where)
                new = value | old & (PTE_ACCESSED | PTE_DIRTY)
                if pte_swap(where, old, new):
                    break
        else:
            old = pte_exchange(where, new)
        before[0] = old
        if self._touch and old & PTE_PRESENT and old != new:
            vcpu.touch(gpa)
        return 0

    cdef int put(self, PvVcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad) except -1 nogil:
        """Put `value` into the entry at `gpa`, in any table of the guest."""
        cdef uint64_t type = pte_get(self.type_of(gpa >> 12))
        cdef uint64_t old = 0
        cdef int error
        if value & PTE_PRESENT:
            if is_io((value & PTE_FRAME) >> 12):
                value = value & ~(PTE_FRAME | PTE_WRITE) | self._absent_gpa
            if not self.is_valid(value):
                return EINVAL
            value |= PTE_USER
        if type & TYPE_UPPER:
            if type_is(type, 4) and is_xen_slot((gpa & 0xfff) >> 3):
                return EINVAL
            error = self.link_entry(vcpu, type, value)
            if error:
                return error
        self.store(vcpu, gpa, value, keep_ad, &old)
        if type & TYPE_UPPER:
            self.unlink_entry(vcpu, type, old, 4)
        return 0

    cdef int change(self, PvVcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad) except -1 nogil:
        if gpa & 7 or not self.is_ram(gpa >> 12):
            return EINVAL
        return self.put(vcpu, gpa, value, keep_ad)

    def update(self, PvVcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad=False):
        """MMU_NORMAL_PT_UPDATE (or PRESERVE_AD) of the entry at `gpa`.

        Raises HypercallError(EINVAL) if the entry or its frame is not the guest's.
        """
        cdef int error
        with nogil:
            error = self.change(vcpu, gpa, value, keep_ad)
        check(error)

    cdef int request(self, PvVcpu vcpu, uint64_t va) except -1 nogil:
        """Perform the struct mmu_update at `va`."""
        cdef uint64_t words[2]
        cdef uint64_t kind
        if not self.copy_in(vcpu.state.kernel_cr3, va, words, sizeof(words)):
            return EFAULT
        kind = words[0] & 3
        if kind == MMU_MACHPHYS_UPDATE:
            return self.put_m2p(words[0] >> 12, words[1])
        return self.change(vcpu, words[0] & ~<uint64_t>3, words[1],
                           kind == MMU_PT_UPDATE_PRESERVE_AD)

    def update_many(self, PvVcpu vcpu, uint64_t requests, uint64_t count):
        """Perform the `count` struct mmu_update at `requests`.

        Returns how many succeeded before one failed, and that one's errno (0: all succeeded).
        """
        cdef uint64_t i = 0
        cdef int error = 0
        with nogil:
            while i < count and not error:
                error = ECANCELED if vcpu.ending else self.request(vcpu, requests + i * 16)
                i += not error
        return i, error

    cdef int put_m2p(self, uint64_t mfn, uint64_t pfn) noexcept nogil:
        if not self.is_ram(mfn):
            return EINVAL
        (<uint64_t *>self.memory.find(self._m2p_gpa + mfn * 8, 8))[0] = pfn
        return 0

    def set_m2p(self, uint64_t mfn, uint64_t pfn):
        """MMU_MACHPHYS_UPDATE: set the pseudo-physical frame of machine frame `mfn` to `pfn`.

        Raises HypercallError(EINVAL) if the frame is not the guest's.
        """
        check(self.put_m2p(mfn, pfn))

    def update_va(self, PvVcpu vcpu, uint64_t va, uint64_t value):
        """update_va_mapping's store: set the L1 entry of `va` in the kernel's address space.

        Raises HypercallError(EINVAL) if there is no such entry or its frame is foreign.
        """
        cdef uint64_t *where = self.leaf(vcpu.state.kernel_cr3, va)
        if where == NULL:
            raise HypercallError(EINVAL)
        self.update(vcpu, <uint64_t>(<uint8_t *>where - self.memory.base), value)

    # Links between tables. When a frame becomes a table of a level, its entries are checked and
    # the tables below it counted; when it ceases to be one, these counts are undone.

    cdef int link(self, PvVcpu vcpu, uint64_t mfn, int level) except -1 nogil:
        """Add a reference to the frame `mfn`, which is RAM, as a table of `level`."""
        cdef int error
        if not type_get(self.type_of(mfn), level):
            return 0
        error = self.adopt(vcpu, mfn, level)
        if error:
            type_put(self.type_of(mfn), level)
        return error

    cdef int unlink(self, PvVcpu vcpu, uint64_t mfn, int level) except -1 nogil:
        """Remove a reference to the frame `mfn` as a table of `level`."""
        if type_put(self.type_of(mfn), level):
            self.drop(vcpu, mfn, level, 512)
        return 0

    cdef int adopt(self, PvVcpu vcpu, uint64_t mfn, int level) except -1 nogil:
        """Make the frame a table of `level`: check every entry, add the user bit, count."""
        cdef uint64_t *table = <uint64_t *>self.memory.find(mfn << 12, 4096)
        cdef uint64_t value, old = 0
        cdef int error = ECANCELED if vcpu.ending else 0
        cdef int slot = 0
        while slot < 512 and not error:
            value = pte_get(table + slot)
            if value & PTE_PRESENT and not (level == 4 and is_xen_slot(slot)):
                error = self.adopt_entry(vcpu, mfn, level, slot, value)
            slot += not error
        if error:
            self.drop(vcpu, mfn, level, slot)
        elif level == 4:
            self._show(vcpu, mfn, self._pinned_slots)
            for slot in range(XEN_FIRST_SLOT + OUR_SLOTS, XEN_FIRST_SLOT + XEN_SLOTS):
                self.store(vcpu, (mfn << 12) + slot * 8, 0, False, &old)
        return error

    cdef int adopt_entry(self, PvVcpu vcpu, uint64_t mfn, int level, int slot,
                         uint64_t value) except -1 nogil:
        cdef uint64_t below = (value & PTE_FRAME) >> 12
        if not self.is_valid(value) or (level > 1 and not self.is_ram(below)):
            return EINVAL
        if not value & PTE_USER:
            pte_or(<uint64_t *>self.memory.find((mfn << 12) + slot * 8, 8), PTE_USER)
            # A leaf that only gains permissions needs no touch: the fault that follows finds it.
            if self._touch and level > 1:
                vcpu.touch((mfn << 12) + slot * 8)
        return self.link(vcpu, below, level - 1) if level > 1 else 0

    cdef int drop(self, PvVcpu vcpu, uint64_t mfn, int level, int count) except -1 nogil:
        """The frame is no table of `level` any more: remove the references that its first `count`
        entries hold."""
        cdef const uint64_t *table = <uint64_t *>self.memory.find(mfn << 12, 4096)
        cdef uint64_t value
        cdef int slot
        if level == 4 and mfn << 12 == vcpu.leaving:
            # The CPU still has it loaded.
            with gil:
                vcpu.flush()
        if level == 1 or vcpu.ending:
            return 0
        for slot in range(count):
            value = pte_get(table + slot)
            if (value & PTE_PRESENT and self.is_ram((value & PTE_FRAME) >> 12)
                    and not (level == 4 and is_xen_slot(slot))):
                self.unlink(vcpu, (value & PTE_FRAME) >> 12, level - 1)
        return 0

    cdef int link_entry(self, PvVcpu vcpu, uint64_t type, uint64_t value) except -1 nogil:
        """Add the references of the entry `value`, which a table of type `type` is to hold."""
        cdef int level, error
        if not value & PTE_PRESENT:
            return 0
        # A xenheap frame that the guest may map is data: it must not become a table.
        if not self.is_ram((value & PTE_FRAME) >> 12):
            return EINVAL
        for level in range(2, 5):
            if type_is(type, level):
                error = self.link(vcpu, (value & PTE_FRAME) >> 12, level - 1)
                if error:
                    self.unlink_entry(vcpu, type, value, level - 1)
                    return error
        return 0

    cdef int unlink_entry(self, PvVcpu vcpu, uint64_t type, uint64_t value,
                          int top) except -1 nogil:
        """Remove the references of the entry `value`, which a table of type `type` held, for the
        table's levels up to `top`."""
        cdef int level
        if value & PTE_PRESENT and self.is_ram((value & PTE_FRAME) >> 12):
            for level in range(2, top + 1):
                if type_is(type, level):
                    self.unlink(vcpu, (value & PTE_FRAME) >> 12, level - 1)
        return 0

    # Pins and base pointers.

    def pin(self, PvVcpu vcpu, uint64_t mfn, int level):
        """MMUEXT_PIN_L<level>_TABLE; raises HypercallError(EINVAL)."""
        cdef uint64_t old = 0
        cdef int error, other
        if not self.is_ram(mfn):
            raise HypercallError(EINVAL)
        with nogil:
            error = self.link(vcpu, mfn, level)
            if not error:
                old = type_pin(self.type_of(mfn), level)
                other = type_pinned(old)
                # The pin keeps it from now on.
                self.unlink(vcpu, mfn, level)
                if other and other != level and not old & TYPE_COUNT(other):
                    self.drop(vcpu, mfn, other, 512)
        check(error)

    def unpin(self, PvVcpu vcpu, uint64_t mfn):
        """MMUEXT_UNPIN_TABLE; raises HypercallError(EINVAL) if it is not pinned."""
        cdef uint64_t old = 0
        cdef int level
        if not self.is_ram(mfn):
            raise HypercallError(EINVAL)
        with nogil:
            old = type_pin(self.type_of(mfn), 0)
            level = type_pinned(old)
            if level and not old & TYPE_COUNT(level):
                self.drop(vcpu, mfn, level, 512)
        if not level:
            raise HypercallError(EINVAL)

    def set_kernel_base(self, PvVcpu vcpu, uint64_t mfn, PvVcpu by=None):
        """MMUEXT_NEW_BASEPTR: set the guest kernel's L4; raises EINVAL if `mfn` cannot be one.

        `by` is the vCPU that makes the hypercall, if `vcpu` is another, which has never run.
        """
        cdef PvVcpu caller = vcpu if by is None else by
        cdef uint64_t old = vcpu.state.kernel_cr3
        self._link_base(caller, mfn)
        vcpu.state.kernel_cr3 = mfn << 12
        self._show_both(caller, vcpu)
        if caller is vcpu:
            vcpu.leave(old)
        self._unlink_base(caller, old >> 12)

    def set_user_base(self, PvVcpu vcpu, uint64_t mfn, PvVcpu by=None):
        """MMUEXT_NEW_USER_BASEPTR: set the L4 for user mode, 0 for none; see set_kernel_base.

        User code does not see a dispatcher in ring 3, nor the machine-to-physical table if its
        kernel has tables of its own.
        """
        cdef PvVcpu caller = vcpu if by is None else by
        cdef uint64_t old = vcpu.state.user_cr3
        if mfn:
            self._link_base(caller, mfn)
        vcpu.state.user_cr3 = mfn << 12
        self._show_both(caller, vcpu)
        self._unlink_base(caller, old >> 12)

    cdef int _link_base(self, PvVcpu vcpu, uint64_t mfn) except -1:
        cdef int error
        if not self.is_ram(mfn):
            raise HypercallError(EINVAL)
        with nogil:
            error = self.link(vcpu, mfn, 4)
        check(error)
        return 0

    cdef int _unlink_base(self, PvVcpu vcpu, uint64_t mfn) except -1:
        if self.is_ram(mfn):
            with nogil:
                self.unlink(vcpu, mfn, 4)
        return 0

    cdef bint _show(self, PvVcpu vcpu, uint64_t mfn, const uint64_t *slots) except -1 nogil:
        """Put `slots` into the L4 `mfn`, if it is RAM; returns whether that changed anything."""
        cdef uint64_t old = 0
        cdef int slot
        cdef bint changed = False
        if not self.is_ram(mfn):
            return False
        for slot in range(OUR_SLOTS):
            if pte_get(self.entry(mfn << 12, XEN_FIRST_SLOT + slot)) != slots[slot]:
                self.store(vcpu, (mfn << 12) + (XEN_FIRST_SLOT + slot) * 8, slots[slot], False,
                           &old)
                changed = True
        return changed

    cdef int _show_both(self, PvVcpu by, PvVcpu vcpu) except -1:
        """Put the slots for the kernel and for the user code of `vcpu` into their L4 tables, which
        may be the same; a table that was both until now is one of them."""
        cdef uint64_t kernel = vcpu.state.kernel_cr3 >> 12
        cdef uint64_t user = vcpu.state.user_cr3 >> 12
        cdef bint changed
        if kernel == user:
            changed = self._show(by, kernel, self._shared_slots)
        else:
            changed = self._show(by, kernel, self._kernel_slots)
            changed |= self._show(by, user, self._user_slots)
        if changed:
            by.reload()
        return 0

    def install(self, PvVcpu vcpu, uint64_t cr3):
        """Pin the domain builder's L4 at gpa `cr3`, as Xen does, and make `vcpu`, which has never
        run, start on it."""
        self.pin(vcpu, cr3 >> 12, 4)
        self._link_base(vcpu, cr3 >> 12)
        vcpu.state.kernel_cr3 = cr3
        self._show(vcpu, cr3 >> 12, self._kernel_slots)

    def level(self, uint64_t mfn):
        """The level of page table that frame `mfn` is pinned as, 0 for none."""
        return type_pinned(pte_get(self.type_of(mfn))) if self.is_ram(mfn) else 0

    cdef bint has_type(self, uint64_t mfn) noexcept nogil:
        return self.is_ram(mfn) and pte_get(self.type_of(mfn)) != 0

    def is_table(self, uint64_t mfn):
        """Whether frame `mfn` is pinned, the L4 of a vCPU, or a table below one that is."""
        return bool(self.has_type(mfn))

    # Faults.

    def repair(self, PvVcpu vcpu):
        """Repair a page fault of the guest's kernel that comes from running it in ring 3.

        Returns True if the access can be retried; False means to forward the fault. We repair:
        a present entry without the user bit, which the kernel wrote itself into an unpinned
        table; and a direct write to a page table that the kernel asked to have mapped read-only
        (the mapping becomes writable).
        """
        cdef uint64_t va = vcpu.cr2
        cdef uint64_t table = vcpu.state.kernel_cr3
        cdef uint64_t *where
        cdef uint64_t value
        cdef int level
        cdef bint mended = False
        if (not vcpu.error_code & PF_PRESENT or not is_canonical(va)
                or is_xen_slot(slot_of(va, 4))):
            return False
        for level in range(4, 0, -1):
            where = self.entry(table, slot_of(va, level))
            if where == NULL:
                return False
            value = pte_get(where)
            if not value & PTE_PRESENT or not self.is_valid(value):
                return False
            if not value & PTE_USER:
                pte_or(where, PTE_USER)
                mended = True
            elif (level == 1 and vcpu.error_code & PF_WRITE and not value & PTE_WRITE
                  and slot_of(va, 4) > XEN_FIRST_SLOT
                  and self.has_type((value & PTE_FRAME) >> 12)):
                pte_or(where, PTE_WRITE)
                mended = True
            if mended and self._touch and level > 1:
                vcpu.touch((table & PTE_FRAME) + slot_of(va, level) * 8)
            table = value & PTE_FRAME
        if mended:
            vcpu.invlpg(va)
        return mended
