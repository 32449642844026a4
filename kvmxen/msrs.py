"""The model-specific registers of a PV guest: what it reads, and which writes are let pass.

Source: xen/arch/x86/msr.c and xen/arch/x86/pv/emul-priv-op.c. What is nowhere here is #GP, there
as here; so are MSRs that belong to a feature of CPUID's that kvmxen does not show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmxen.cpuid import Vendor
from kvmxen.hypercall.segments import (
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    is_canonical,
)
from kvmxen.kvm.ioctl import KvmError

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu

MSR_TSC = 0x10
MSR_PLATFORM_ID = 0x17
MSR_APIC_BASE = 0x1B
MSR_FEATURE_CONTROL = 0x3A
# Intel's name is IA32_BIOS_SIGN_ID, AMD's is PATCH_LEVEL.
MSR_MICROCODE = 0x8B
MSR_PLATFORM_INFO = 0xCE
MSR_MISC_FEATURES_ENABLES = 0x140
MSR_PERF_STATUS = 0x198
MSR_PERF_CTL = 0x199
MSR_THERM_CONTROL = 0x19A
MSR_THERM_STATUS = 0x19C
MSR_MISC_ENABLE = 0x1A0
MSR_ENERGY_PERF_BIAS = 0x1B0
MSR_PAT = 0x277
MSR_PERF_CAPABILITIES = 0x345
MSR_EFER = 0xC0000080
MSR_HWCR = 0xC0010015
MSR_NB_CFG = 0xC001001F
MSR_DE_CFG = 0xC0011029

# Xen's own PAT, which the guest's page tables are read with (xen/arch/x86/include/asm/x86-defns.h).
XEN_PAT = 0x0000050100070406
_EFER_PV = 0xD01
_APIC_ENABLED, _APIC_BOOTSTRAP = 0xFEE00800, 1 << 8
_FEATURE_CONTROL_LOCK = 1
# Fast strings; no BTS, no PEBS, xTPR disabled. Linux does without ERMS and not without FSRM where
# the first is off, and then its memmove fails.
_MISC_ENABLE = 1 << 0 | 1 << 11 | 1 << 12 | 1 << 23
# Xen has none of HWCR's bits; without this one Linux complains of the firmware.
_HWCR_TSC_AT_P0 = 1 << 24
_DE_CFG_LFENCE_SERIALISES = 1 << 1

_BASES = frozenset({MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE})
# Machine checks: MCG_CAP with no banks, MCG_STATUS, MCG_CTL, and the banks' registers.
_MACHINE_CHECK = (*range(0x179, 0x17C), *range(0x280, 0x2A0), *range(0x400, 0x480))
_P5_MACHINE_CHECK = (0, 1)
_MPERF_APERF = (0xE7, 0xE8)
_INTEL_COUNTERS = (
    *range(0xC1, 0xC9),
    *range(0x186, 0x18E),
    *range(0x309, 0x30C),
    *range(0x38D, 0x391),
)
_AMD_COUNTERS = (*range(0xC0010000, 0xC0010008), *range(0xC0010200, 0xC001020C))
# FID_VID_CTL and FID_VID_STATUS; PSTATE_LIMIT, _CONTROL, _STATUS and eight PSTATEs.
_AMD_PSTATES = (0xC0010041, 0xC0010042, *range(0xC0010061, 0xC001006C))
# Of Xen's own, a guest may ask for none that fails without a word.
_XEN_MSRS = 0x4000
_GENERAL_PROTECTION = 13
# Writes must not change these.
_FIXED = frozenset({MSR_EFER, MSR_MISC_FEATURES_ENABLES})


@dataclass(frozen=True)
class _Registers:
    """`values`: what is read; `ignored`: what can be written, to no effect."""

    values: dict[int, int]
    ignored: frozenset[int]


def _registers(
    values: dict[int, int],
    zero: Iterable[int] = (),
    ignored: Iterable[int] = (),
) -> _Registers:
    """Of one vendor, with what all have."""
    everyones = {
        MSR_EFER: _EFER_PV,
        MSR_PAT: XEN_PAT,
        **dict.fromkeys((MSR_PLATFORM_INFO, MSR_MISC_FEATURES_ENABLES), 0),
        **dict.fromkeys((MSR_PERF_CAPABILITIES, MSR_NB_CFG), 0),
        **dict.fromkeys((*_P5_MACHINE_CHECK, *_MACHINE_CHECK), 0),
    }
    return _Registers(
        everyones | dict.fromkeys(zero, 0) | values,
        frozenset({MSR_NB_CFG, *_MACHINE_CHECK, *ignored}),
    )


_HYGONS = {MSR_HWCR: _HWCR_TSC_AT_P0, MSR_DE_CFG: _DE_CFG_LFENCE_SERIALISES}
_AMDS_IGNORED = (MSR_HWCR, MSR_DE_CFG, *_AMD_COUNTERS, *_AMD_PSTATES, *_MPERF_APERF)
_OF_VENDOR = {
    Vendor.INTEL: _registers(
        {MSR_FEATURE_CONTROL: _FEATURE_CONTROL_LOCK, MSR_MISC_ENABLE: _MISC_ENABLE},
        zero=(
            *(MSR_PLATFORM_ID, MSR_PERF_STATUS, MSR_PERF_CTL, MSR_THERM_STATUS),
            *_INTEL_COUNTERS,
        ),
        ignored=(
            *(MSR_PERF_CTL, MSR_THERM_CONTROL, MSR_ENERGY_PERF_BIAS, MSR_MISC_ENABLE),
            *_INTEL_COUNTERS,
            *_MPERF_APERF,
        ),
    ),
    Vendor.AMD: _registers(_HYGONS, zero=_AMD_COUNTERS + _AMD_PSTATES, ignored=_AMDS_IGNORED),
    Vendor.HYGON: _registers(_HYGONS, zero=_AMD_COUNTERS, ignored=_AMDS_IGNORED),
    Vendor.OTHER: _registers({}),
}
_HAS_MICROCODE = frozenset({Vendor.INTEL, Vendor.AMD})


def read(cpu: Cpu, index: int) -> int | None:
    """What the guest reads from MSR `index`; None for #GP."""
    vendor = cpu.machine.cpuid.vendor
    if index in _BASES or index == MSR_TSC:
        return cpu.fd.get_msr(index)
    if index == MSR_APIC_BASE:
        return _APIC_ENABLED | (0 if cpu.index else _APIC_BOOTSTRAP)
    if index == MSR_MICROCODE and vendor in _HAS_MICROCODE:
        return _microcode(cpu)
    value = _OF_VENDOR[vendor].values.get(index)
    if value is None and index >> 16 != _XEN_MSRS and _GENERAL_PROTECTION not in cpu.trap_table:
        # A kernel that cannot handle the fault yet does not mean to be stopped by it.
        return 0
    return value


def _microcode(cpu: Cpu) -> int | None:
    try:
        return cpu.fd.get_msr(MSR_MICROCODE)
    except KvmError:
        return None


def write(cpu: Cpu, index: int, value: int) -> bool:
    """Write `value` to MSR `index`, or let it pass; False for #GP."""
    if index in _BASES:
        if is_canonical(value):
            cpu.fd.set_msr(index, value)
        return is_canonical(value)
    vendor = cpu.machine.cpuid.vendor
    registers = _OF_VENDOR[vendor]
    if index == MSR_MICROCODE:
        # Intel's way to ask for the revision begins with it.
        return vendor is Vendor.INTEL and value == 0
    if index in _FIXED:
        return value == registers.values[index]
    return index in registers.ignored
