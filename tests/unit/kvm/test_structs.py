"""KVM's structures match the kernel's own headers, through the C compiler."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmxen.kvm import structs, system, vcpu, vm

KERNEL_NAMES = {
    structs.MemoryRegion: "kvm_userspace_memory_region",
    structs.Segment: "kvm_segment",
    structs.DescriptorTable: "kvm_dtable",
    structs.Sregs: "kvm_sregs",
    structs.Debugregs: "kvm_debugregs",
    structs.Xcr: "kvm_xcr",
    structs.Xcrs: "kvm_xcrs",
    structs.MsrEntry: "kvm_msr_entry",
    structs.CpuidEntry: "kvm_cpuid_entry2",
    structs.MpState: "kvm_mp_state",
    structs.EnableCap: "kvm_enable_cap",
    structs.Msi: "kvm_msi",
    structs.ClockData: "kvm_clock_data",
    structs.IoEventFd: "kvm_ioeventfd",
}
# Structures that end in an array, which has a fixed length here.
HEADS = {structs.OneMsr: ("kvm_msrs", "entries"), structs.Cpuid: ("kvm_cpuid2", "entries")}
IOCTLS = {
    "KVM_GET_API_VERSION": system._GET_API_VERSION,
    "KVM_CREATE_VM": system._CREATE_VM,
    "KVM_CHECK_EXTENSION": system._CHECK_EXTENSION,
    "KVM_GET_VCPU_MMAP_SIZE": system._GET_VCPU_MMAP_SIZE,
    "KVM_GET_SUPPORTED_CPUID": system._GET_SUPPORTED_CPUID,
    "KVM_CREATE_VCPU": vm._CREATE_VCPU,
    "KVM_SET_USER_MEMORY_REGION": vm._SET_USER_MEMORY_REGION,
    "KVM_SIGNAL_MSI": vm._SIGNAL_MSI,
    "KVM_GET_CLOCK": vm._GET_CLOCK,
    "KVM_ENABLE_CAP": vm._ENABLE_CAP,
    "KVM_IOEVENTFD": vm._IOEVENTFD,
    "KVM_GET_SREGS": vcpu._GET_SREGS,
    "KVM_SET_SREGS": vcpu._SET_SREGS,
    "KVM_GET_TSC_KHZ": vcpu._GET_TSC_KHZ,
    "KVM_GET_MSRS": vcpu._GET_MSRS,
    "KVM_SET_MSRS": vcpu._SET_MSRS,
    "KVM_SET_CPUID2": vcpu._SET_CPUID2,
    "KVM_GET_DEBUGREGS": vcpu._GET_DEBUGREGS,
    "KVM_SET_DEBUGREGS": vcpu._SET_DEBUGREGS,
    "KVM_SET_XCRS": vcpu._SET_XCRS,
    "KVM_SET_MP_STATE": vcpu._SET_MP_STATE,
}


def ask_the_compiler(folder: Path, expressions: list[str]) -> dict[str, int]:
    """The values of C expressions after including <linux/kvm.h>."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    lines = [f'printf("%llu\\n", (unsigned long long)({one}));' for one in expressions]
    source = folder / "ask.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\n"
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    program = folder / "ask"
    subprocess.run([compiler, "-o", program, source], check=True)
    answer = subprocess.run([program], check=True, capture_output=True, text=True)
    return dict(zip(expressions, map(int, answer.stdout.split()), strict=True))


def test_sizes_and_offsets_are_the_kernels(tmp_path: Path) -> None:
    expected: dict[str, int] = {}
    for ours, name in KERNEL_NAMES.items():
        expected[f"sizeof(struct {name})"] = ctypes.sizeof(ours)
        for field, *_ in ours._fields_:
            if field in ("reserved", "padding", "pad", "pad0"):
                continue
            expected[f"offsetof(struct {name}, {field})"] = getattr(ours, field).offset
    for head, (name, entries) in HEADS.items():
        first = head._fields_[0][0]
        last = head._fields_[-1][0]
        expected[f"offsetof(struct {name}, {first})"] = getattr(head, first).offset
        expected[f"offsetof(struct {name}, {entries})"] = getattr(head, last).offset
    assert ask_the_compiler(tmp_path, list(expected)) == expected


def test_ioctl_numbers_are_the_kernels(tmp_path: Path) -> None:
    assert ask_the_compiler(tmp_path, list(IOCTLS)) == IOCTLS


def test_every_ioctl_number_is_tested() -> None:
    ours = {
        value
        for module in (system, vm, vcpu)
        for name, value in vars(module).items()
        if name.startswith(("_GET_", "_SET_", "_CREATE", "_CHECK", "_SIGNAL", "_ENABLE"))
        or name == "_IOEVENTFD"
    }
    assert ours == set(IOCTLS.values())


def test_capabilities_are_the_kernels(tmp_path: Path) -> None:
    expected = {f"KVM_CAP_{cap.name}": int(cap) for cap in system.Cap}
    assert ask_the_compiler(tmp_path, list(expected)) == expected
