"""The state that the host shares with the dispatcher (shim/state.h): a part of each vCPU's state,
and facts about the whole domain.

If the dispatcher runs in the guest kernel's ring 3, that kernel can write all of a vCPU's shared
state: callers must check the values that they read here.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kvmxen.kvm.memory cimport GuestMemory

from kvmxen.kvm.layout import PAGE_SIZE

cdef extern from *:
    """
    static inline int shim_stays_out(struct shim_state *state)
    {
        __atomic_store_n(&state->look, 1, __ATOMIC_SEQ_CST);
        return __atomic_load_n(&state->outside, __ATOMIC_SEQ_CST);
    }
    static inline int shim_come_back(struct shim_state *state)
    {
        __atomic_store_n(&state->outside, 0, __ATOMIC_SEQ_CST);
        uint32_t asked = __atomic_load_n(&state->flushes_asked, __ATOMIC_SEQ_CST);
        if (asked == state->flushes_done)
            return 0;
        state->flushes_done = asked;
        return 1;
    }
    """
    bint shim_stays_out(shim_state *state) noexcept nogil
    bint shim_come_back(shim_state *state) noexcept nogil


cdef class SharedState(Vcpu):
    """A vCPU with state shared with the dispatcher."""

    def create(self, uint64_t cr0):
        """Write the state of a vCPU that has not run, with this CR0."""
        cdef shim_state *state = self.state
        state.index = self.index
        state.cr0 = state.loaded_cr0 = cr0
        state.kernel_mode = True
        state.outside = True

    cdef bint come_back(self) noexcept:
        """Prepare to run the guest; returns whether the vCPU must flush its translations first."""
        return shim_come_back(self.state)

    # What the guest's kernel runs on, and what it registers.

    @property
    def kernel_mode(self):
        """Whether the guest runs its kernel."""
        return self.state.kernel_mode != 0

    @kernel_mode.setter
    def kernel_mode(self, bint value):
        self.state.kernel_mode = value

    @property
    def kernel_cr3(self):
        """The gpa of the guest kernel's L4 table, 0 for none."""
        return self.state.kernel_cr3

    @kernel_cr3.setter
    def kernel_cr3(self, uint64_t gpa):
        self.state.kernel_cr3 = gpa

    @property
    def user_cr3(self):
        """The gpa of the guest user code's L4 table, 0 for none."""
        return self.state.user_cr3

    @user_cr3.setter
    def user_cr3(self, uint64_t gpa):
        self.state.user_cr3 = gpa

    def note_own_event(self):
        """Note that the vCPU sent an event to itself; its next iret clears the note."""
        self.state.sent_to_itself = 1

    def forget_event_loop(self):
        """Restart the count of upcalls that immediately followed the last one."""
        self.state.upcalls = 0

    @property
    def kernel_sp(self):
        """The guest kernel's stack for traps from user code."""
        return self.state.kernel_sp

    @kernel_sp.setter
    def kernel_sp(self, uint64_t sp):
        self.state.kernel_sp = sp

    @property
    def iopl(self):
        """The outermost ring, 0 to 3, in which the guest may do port I/O, cli and sti."""
        return self.state.iopl & 3

    @iopl.setter
    def iopl(self, uint8_t ring):
        self.state.iopl = ring

    @property
    def architectural_iopl(self):
        """Whether the guest's IOPL is in the flags that iret loads and traps save, with its kernel
        as ring 0; else the guest sets it by hypercall, with its kernel as ring 1."""
        return self.state.architectural_iopl != 0

    @architectural_iopl.setter
    def architectural_iopl(self, bint on):
        self.state.architectural_iopl = on

    def set_trap(self, unsigned vector, uint64_t address, bint mask_events):
        """Set the guest kernel's handler of exception `vector` (0 to 31); 0 for none."""
        if vector >= 32:
            raise IndexError(vector)
        self.state.traps[vector] = shim_handler(address, mask_events)

    def set_callback(self, unsigned kind, uint64_t address, bint mask_events):
        """Set the guest kernel's entry for callback `kind`, CALLBACKTYPE_* (0 to 7); 0 for none."""
        if kind >= 8:
            raise IndexError(kind)
        self.state.callbacks[kind] = shim_handler(address, mask_events)

    def remember_cpuid(self, uint32_t leaf, subleaf, uint32_t eax, uint32_t ebx,
                       uint32_t ecx, uint32_t edx):
        """Make the dispatcher answer this CPUID of the guest's kernel from now on; `subleaf` is
        None if the leaf has none. There is room for the first SHIM_CPUIDS questions."""
        cdef shim_cpuid *known = &self.state.cpuid[0]
        cdef int i
        for i in range(self._cpuids):
            if known[i].leaf == leaf and (subleaf is None or known[i].subleaf == subleaf):
                return
        if self._cpuids < SHIM_CPUIDS:
            self.state.cpuid[self._cpuids] = shim_cpuid(
                leaf, subleaf or 0, 0 if subleaf is None else 0xffffffff, eax, ebx, ecx, edx)
            self._cpuids += 1
            self.state.cpuids = self._cpuids

    # Timers, with the names of `timer.Deadlines`.

    @property
    def singleshot(self):
        """The deadline of the guest's singleshot timer, in ns of system time; 0 for none."""
        return self.state.singleshot

    @singleshot.setter
    def singleshot(self, uint64_t deadline):
        self.state.singleshot = deadline

    @property
    def others(self):
        """The earliest of the host's deadlines for the vCPU, in ns of system time; 0 for none."""
        return self.state.others

    @others.setter
    def others(self, uint64_t deadline):
        self.state.others = deadline

    @property
    def armed(self):
        """The deadline programmed in the LAPIC, in ns of system time; 0 for none."""
        return self.state.armed

    @armed.setter
    def armed(self, uint64_t deadline):
        self.state.armed = deadline

    def set_timer_port(self, uint32_t port):
        """Set the port of VIRQ_TIMER; 0 for none."""
        self.state.timer_port = port

    def set_time_version(self, uint32_t version):
        """Set the version of the vcpu_info's time that was last copied for the guest."""
        self.state.time_version = version

    # Messages between host and dispatcher.

    def request_look(self):
        """From any thread: make the guest's next interrupt an exit."""
        self.state.look = 1

    def looked(self):
        """Clear `request_look`: the host is about to check."""
        self.state.look = 0

    def stays_out(self):
        """From any thread: `request_look`, and return whether the vCPU is outside the guest, so
        that it will exit before it returns there."""
        return shim_stays_out(self.state)

    @property
    def asleep_since(self):
        """Since when the vCPU is asleep, in ns of system time; 0 if it is not."""
        return self.state.asleep_since

    @property
    def slept(self):
        """How many ns the vCPU has slept before."""
        return self.state.slept

    @property
    def delivered(self):
        """How many events the dispatcher raised."""
        return self.state.delivered

    @property
    def dispatched_hypercalls(self):
        """How often the dispatcher handled each hypercall in the guest, by number."""
        return {i: self.state.hypercalls[i] for i in range(64) if self.state.hypercalls[i]}

    @property
    def dispatched_traps(self):
        """How often the dispatcher handled each trap, by number."""
        return {i: self.state.taken[i] for i in range(48) if self.state.taken[i]}


cdef tuple _entries(const uint64_t *slots):
    return tuple([slots[i] for i in range(SHIM_L4_SLOTS)])


cdef class SharedDomain:
    """The domain's facts for the dispatcher, at `gpa` of `memory`; only the host writes them."""

    def __cinit__(self, GuestMemory memory, uint64_t gpa):
        self._memory = memory
        self._gpa = gpa
        self._domain = <shim_domain *>memory.at(gpa, sizeof(shim_domain))

    def describe(self, layout, slots, *, bint in_ring3, uint64_t xen_version, uint64_t tsc_khz,
                 bint sets_fs_base):
        """Write the facts that stay the same while the guest runs; call it before the start.

        `layout` is a layout.Layout, and `slots` has the L4 entries of shim.image.Slots. `in_ring3`
        says where the dispatcher runs; `xen_version` is the result of XENVER_version;
        `sets_fs_base` says whether ring 3 can set its FS base.
        """
        cdef shim_domain *domain = self._domain
        cdef int i
        domain.in_ring3 = in_ring3
        domain.vcpus = layout.vcpus
        domain.ram_mfn[1] = domain.ram_frames[1] = 0
        for i, extent in enumerate(layout.ram):
            domain.ram_mfn[i] = extent.mfn
            domain.ram_frames[i] = extent.frames
        domain.m2p_gpa = layout.m2p_gpa
        domain.types_gpa = layout.types_gpa
        domain.xen_version = xen_version
        domain.shared_info_gpa = layout.shared_info_mfn * PAGE_SIZE
        domain.tsc_per_ns = (tsc_khz << 32) // 1000000
        domain.sets_fs_base = sets_fs_base
        for i in range(SHIM_L4_SLOTS):
            domain.pinned_slots[i] = slots.pinned[i]
            domain.kernel_slots[i] = slots.kernel[i]
            domain.user_slots[i] = slots.user[i]
            domain.shared_slots[i] = slots.shared[i]

    @property
    def slots(self):
        """The four tuples of L4 entries that `describe` wrote, in the order of shim.image.Slots."""
        cdef shim_domain *domain = self._domain
        return (_entries(domain.pinned_slots), _entries(domain.kernel_slots),
                _entries(domain.user_slots), _entries(domain.shared_slots))

    @property
    def ports_gpa(self):
        """The gpa of the kinds of the event channels: PORT_*, a byte for each."""
        return self._gpa + (<uint8_t *>self._domain.ports - <uint8_t *>self._domain)

    def set_port(self, unsigned port, uint8_t kind):
        """Set how the dispatcher handles a send to event channel `port`: PORT_HOST, PORT_DOORBELL,
        or PORT_IPI plus the vCPU's number. Raises IndexError beyond the channels."""
        if port >= SHIM_PORTS:
            raise IndexError(port)
        self._domain.ports[port] = kind
