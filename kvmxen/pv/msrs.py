"""The model-specific registers of a PV guest: the values it reads, and the writes it may make.

Source: xen/arch/x86/msr.c and xen/arch/x86/pv/emul-priv-op.c. An MSR not listed here is #GP, as
on Xen; so is one that belongs to a CPUID feature that kvmxen does not show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvmxen.kvm.ioctl import KvmError
from kvmxen.pv.cpu import Cpu
from kvmxen.pv.shim.start import EFER
from kvmxen.xen.abi import x86
from kvmxen.xen.abi.xen import XEN_PAT
from kvmxen.xen.cpuid import Vendor

_APIC_ENABLED, _APIC_BOOTSTRAP = 0xFEE00800, 1 << 8
_FEATURE_CONTROL_LOCK = 1
# Fast strings; no BTS, no PEBS, xTPR disabled. If the first is off, Linux drops ERMS but keeps
# FSRM, and then its memmove fails.
_MISC_ENABLE = 1 << 0 | 1 << 11 | 1 << 12 | 1 << 23
# Xen sets no bit of HWCR; without this one Linux complains about the firmware.
_HWCR_TSC_AT_P0 = 1 << 24
_DE_CFG_LFENCE_SERIALISES = 1 << 1

_BASES = frozenset({x86.MSR_FS_BASE, x86.MSR_GS_BASE, x86.MSR_KERNEL_GS_BASE})
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
# A bad read in Xen's own MSR range always raises #GP.
_XEN_MSRS = 0x4000
# Writes must not change these.
_FIXED = frozenset({x86.MSR_EFER, x86.MSR_MISC_FEATURES_ENABLES})


@dataclass(frozen=True)
class _Registers:
    """`values`: the values that reads return; `ignored`: MSRs whose writes have no effect."""

    values: dict[int, int]
    ignored: frozenset[int]


def _registers(
    values: dict[int, int],
    zero: Iterable[int] = (),
    ignored: Iterable[int] = (),
) -> _Registers:
    """The registers of one vendor, including those common to all."""
    everyones = {
        x86.MSR_EFER: EFER,
        x86.MSR_PAT: XEN_PAT,
        **dict.fromkeys((x86.MSR_PLATFORM_INFO, x86.MSR_MISC_FEATURES_ENABLES), 0),
        **dict.fromkeys((x86.MSR_PERF_CAPABILITIES, x86.MSR_NB_CFG), 0),
        **dict.fromkeys((*_P5_MACHINE_CHECK, *_MACHINE_CHECK), 0),
    }
    return _Registers(
        everyones | dict.fromkeys(zero, 0) | values,
        frozenset({x86.MSR_NB_CFG, *_MACHINE_CHECK, *ignored}),
    )


_HYGONS = {x86.MSR_HWCR: _HWCR_TSC_AT_P0, x86.MSR_DE_CFG: _DE_CFG_LFENCE_SERIALISES}
_AMDS_IGNORED = (x86.MSR_HWCR, x86.MSR_DE_CFG, *_AMD_COUNTERS, *_AMD_PSTATES, *_MPERF_APERF)
_OF_VENDOR = {
    Vendor.INTEL: _registers(
        {x86.MSR_FEATURE_CONTROL: _FEATURE_CONTROL_LOCK, x86.MSR_MISC_ENABLE: _MISC_ENABLE},
        zero=(
            *(x86.MSR_PLATFORM_ID, x86.MSR_PERF_STATUS, x86.MSR_PERF_CTL, x86.MSR_THERM_STATUS),
            *_INTEL_COUNTERS,
        ),
        ignored=(
            *(
                x86.MSR_PERF_CTL,
                x86.MSR_THERM_CONTROL,
                x86.MSR_ENERGY_PERF_BIAS,
                x86.MSR_MISC_ENABLE,
            ),
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
    """The value that the guest reads from MSR `index`; None for #GP."""
    vendor = cpu.machine.cpuid.vendor
    if index in _BASES or index == x86.MSR_TSC:
        return cpu.fd.get_msr(index)
    if index == x86.MSR_APIC_BASE:
        return _APIC_ENABLED | (0 if cpu.index else _APIC_BOOTSTRAP)
    if index == x86.MSR_MICROCODE and vendor in _HAS_MICROCODE:
        return _microcode(cpu)
    value = _OF_VENDOR[vendor].values.get(index)
    if (
        value is None
        and index >> 16 != _XEN_MSRS
        and x86.TRAP_GENERAL_PROTECTION not in cpu.trap_table
    ):
        # A kernel that cannot handle the fault yet must not be stopped by it.
        return 0
    return value


def _microcode(cpu: Cpu) -> int | None:
    try:
        return cpu.fd.get_msr(x86.MSR_MICROCODE)
    except KvmError:
        return None


def write(cpu: Cpu, index: int, value: int) -> bool:
    """Write `value` to MSR `index`, or ignore it; returns False for #GP."""
    if index in _BASES:
        if x86.is_canonical(value):
            cpu.fd.set_msr(index, value)
        return x86.is_canonical(value)
    vendor = cpu.machine.cpuid.vendor
    registers = _OF_VENDOR[vendor]
    if index == x86.MSR_MICROCODE:
        # Intel's procedure to read the revision starts with this write.
        return vendor is Vendor.INTEL and value == 0
    if index in _FIXED:
        return value == registers.values[index]
    return index in registers.ignored
