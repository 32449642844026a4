"""KVM's structures. Source: Linux's include/uapi/linux/kvm.h and x86's asm/kvm.h."""

from __future__ import annotations

from ctypes import Structure, c_int32, c_uint8, c_uint16, c_uint32, c_uint64


class MemoryRegion(Structure):
    """kvm_userspace_memory_region: sizes and addresses in bytes."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class Segment(Structure):
    """kvm_segment."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        *(
            (name, c_uint8)
            for name in (
                "type",
                "present",
                "dpl",
                "db",
                "s",
                "l",
                "g",
                "avl",
                "unusable",
                "padding",
            )
        ),
    )


class DescriptorTable(Structure):
    """kvm_dtable."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class Sregs(Structure):
    """kvm_sregs."""

    _fields_ = (
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", DescriptorTable),
        ("idt", DescriptorTable),
        *(
            (name, c_uint64)
            for name in (
                "cr0",
                "cr2",
                "cr3",
                "cr4",
                "cr8",
                "efer",
                "apic_base",
            )
        ),
        ("interrupt_bitmap", c_uint64 * 4),
    )


class Debugregs(Structure):
    """kvm_debugregs."""

    _fields_ = (
        ("db", c_uint64 * 4),
        ("dr6", c_uint64),
        ("dr7", c_uint64),
        ("flags", c_uint64),
        ("reserved", c_uint64 * 9),
    )


class Xcr(Structure):
    """kvm_xcr."""

    _fields_ = (("xcr", c_uint32), ("reserved", c_uint32), ("value", c_uint64))


class Xcrs(Structure):
    """kvm_xcrs."""

    _fields_ = (
        ("nr_xcrs", c_uint32),
        ("flags", c_uint32),
        ("xcrs", Xcr * 16),
        ("padding", c_uint64 * 16),
    )


class MsrEntry(Structure):
    """kvm_msr_entry."""

    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


class OneMsr(Structure):
    """kvm_msrs with room for one entry."""

    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32), ("entry", MsrEntry))


class CpuidEntry(Structure):
    """kvm_cpuid_entry2."""

    _fields_ = (
        *(
            (name, c_uint32)
            for name in (
                "function",
                "index",
                "flags",
                "eax",
                "ebx",
                "ecx",
                "edx",
            )
        ),
        ("padding", c_uint32 * 3),
    )


MAX_CPUID_ENTRIES = 256


class Cpuid(Structure):
    """kvm_cpuid2 with room for MAX_CPUID_ENTRIES."""

    _fields_ = (
        ("nent", c_uint32),
        ("padding", c_uint32),
        ("entries", CpuidEntry * MAX_CPUID_ENTRIES),
    )


class MpState(Structure):
    """kvm_mp_state."""

    _fields_ = (("mp_state", c_uint32),)


class EnableCap(Structure):
    """kvm_enable_cap."""

    _fields_ = (
        ("cap", c_uint32),
        ("flags", c_uint32),
        ("args", c_uint64 * 4),
        ("pad", c_uint8 * 64),
    )


class Msi(Structure):
    """kvm_msi."""

    _fields_ = (
        ("address_lo", c_uint32),
        ("address_hi", c_uint32),
        ("data", c_uint32),
        ("flags", c_uint32),
        ("devid", c_uint32),
        ("pad", c_uint8 * 12),
    )


class IoEventFd(Structure):
    """kvm_ioeventfd."""

    _fields_ = (
        ("datamatch", c_uint64),
        ("addr", c_uint64),
        ("len", c_uint32),
        ("fd", c_int32),
        ("flags", c_uint32),
        ("pad", c_uint8 * 36),
    )


class ClockData(Structure):
    """kvm_clock_data: nanoseconds since the VM's clock started."""

    _fields_ = (
        ("clock", c_uint64),
        ("flags", c_uint32),
        ("pad0", c_uint32),
        ("realtime", c_uint64),
        ("host_tsc", c_uint64),
        ("pad", c_uint32 * 4),
    )
