"""Every ioctl wrapper on a descriptor that is not KVM's: an error that names the ioctl."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmxen.errors import KvmxenError
from kvmxen.kvm.ioctl import KvmError, io, ior, iow, iowr
from kvmxen.kvm.structs import CpuidEntry, Debugregs, Sregs
from kvmxen.kvm.system import Cap, System
from kvmxen.kvm.vcpu import VcpuFd
from kvmxen.kvm.vm import Vm


@pytest.fixture
def null() -> Iterator[int]:
    """A descriptor that supports no ioctl of KVM."""
    fd = os.open(os.devnull, os.O_RDWR)
    yield fd
    os.close(fd)


SYSTEM: dict[str, Callable[[System], object]] = {
    "KVM_CHECK_EXTENSION": lambda system: system.check_extension(Cap.XEN_HVM),
    "KVM_GET_VCPU_MMAP_SIZE": lambda system: system.vcpu_mmap_size(),
    "KVM_GET_SUPPORTED_CPUID": lambda system: system.supported_cpuid(),
    "KVM_CREATE_VM": lambda system: system.create_vm(),
}
VM: dict[str, Callable[[Vm], object]] = {
    "KVM_ENABLE_CAP(SPLIT_IRQCHIP)": lambda vm: vm.enable_cap(Cap.SPLIT_IRQCHIP, 0),
    "KVM_SET_USER_MEMORY_REGION": lambda vm: vm.set_memory(0, 0, 4096, 0),
    "KVM_CREATE_VCPU": lambda vm: vm.create_vcpu(0),
    "KVM_SIGNAL_MSI": lambda vm: vm.signal_msi(0, 32),
    "KVM_IOEVENTFD": lambda vm: vm.listen(0x100, 1, 0, True),
    "KVM_GET_CLOCK": lambda vm: vm.clock(),
}
VCPU: dict[str, Callable[[VcpuFd], object]] = {
    "KVM_GET_SREGS": lambda vcpu: vcpu.get_sregs(),
    "KVM_SET_SREGS": lambda vcpu: vcpu.set_sregs(Sregs()),
    "KVM_GET_MSRS(0x10)": lambda vcpu: vcpu.get_msr(0x10),
    "KVM_SET_MSRS(0x10)": lambda vcpu: vcpu.set_msr(0x10, 0),
    "KVM_SET_CPUID2": lambda vcpu: vcpu.set_cpuid([CpuidEntry()]),
    "KVM_GET_DEBUGREGS": lambda vcpu: vcpu.get_debugregs(),
    "KVM_SET_DEBUGREGS": lambda vcpu: vcpu.set_debugregs(Debugregs()),
    "KVM_SET_XCRS": lambda vcpu: vcpu.set_xcr0(1),
    "KVM_SET_MP_STATE": lambda vcpu: vcpu.set_runnable(),
    "KVM_GET_TSC_KHZ": lambda vcpu: vcpu.tsc_khz(),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((System, name) for name in SYSTEM),
        *((Vm, name) for name in VM),
        *((VcpuFd, name) for name in VCPU),
    ],
)
def test_a_failing_ioctl_is_named(kind: type, name: str, null: int) -> None:
    wrapper: Any = object.__new__(kind)
    wrapper.fd = null
    wrapper.index = 0
    call: Callable[[object], object] = {**SYSTEM, **VM, **VCPU}[name]  # type: ignore[assignment]
    with pytest.raises(KvmError) as raised:
        call(wrapper)
    assert str(raised.value).startswith(f"{name} failed: ")
    assert raised.value.errno == errno.ENOTTY
    assert raised.value.exit_status == 1


def test_every_wrapper_is_tested() -> None:
    public = {
        f"{kind.__name__}.{name}"
        for kind in (System, Vm, VcpuFd)
        for name in vars(kind)
        if not name.startswith("_") and name != "close"
    }
    assert len(public) == len(SYSTEM) + len(VM) + len(VCPU)


def test_too_many_cpuid_entries_are_no_ioctl(null: int) -> None:
    vcpu = VcpuFd.__new__(VcpuFd)
    vcpu.fd = null
    with pytest.raises(ValueError, match="too many"):
        vcpu.set_cpuid([CpuidEntry()] * 257)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/dev/kvm-that-is-not-there", "this host has no /dev/kvm-that-is-not-there"),
        ("/", "cannot open /: Is a directory"),
        (os.devnull, "is not a KVM device"),
    ],
)
def test_what_is_not_dev_kvm(path: str, sentence: str) -> None:
    with pytest.raises(KvmxenError, match=sentence):
        System(Path(path))


def test_no_permission_says_which_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    tmp_path.chmod(0o660)
    os.chown(tmp_path, -1, 65_432)
    monkeypatch.setattr(os, "geteuid", lambda: 65_431)
    with pytest.raises(KvmxenError, match="join its group with 'sudo usermod -aG group 65432"):
        System(tmp_path)


def test_ioctl_numbers() -> None:
    assert io(0x80) == 0xAE80
    assert iow(0x46, 32) == 0x4020AE46
    assert ior(0x81, 144) == 0x8090AE81
    assert iowr(0x05, 8) == 0xC008AE05
