"""Every ioctl wrapper on a descriptor that is not KVM's: an error that names the ioctl."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
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


# Each wrapper: the ioctl, and the method's arguments.
WRAPPERS: dict[type, dict[str, tuple[str, tuple[object, ...]]]] = {
    System: {
        "check_extension": ("KVM_CHECK_EXTENSION", (Cap.XEN_HVM,)),
        "vcpu_mmap_size": ("KVM_GET_VCPU_MMAP_SIZE", ()),
        "supported_cpuid": ("KVM_GET_SUPPORTED_CPUID", ()),
        "create_vm": ("KVM_CREATE_VM", ()),
    },
    Vm: {
        "enable_cap": ("KVM_ENABLE_CAP(SPLIT_IRQCHIP)", (Cap.SPLIT_IRQCHIP, 0)),
        "set_memory": ("KVM_SET_USER_MEMORY_REGION", (0, 0, 4096, 0)),
        "create_vcpu": ("KVM_CREATE_VCPU", (0,)),
        "signal_msi": ("KVM_SIGNAL_MSI", (0, 32)),
        "listen": ("KVM_IOEVENTFD", (0x100, 1, 0, True)),
        "clock": ("KVM_GET_CLOCK", ()),
    },
    VcpuFd: {
        "get_sregs": ("KVM_GET_SREGS", ()),
        "set_sregs": ("KVM_SET_SREGS", (Sregs(),)),
        "get_msr": ("KVM_GET_MSRS(0x10)", (0x10,)),
        "set_msr": ("KVM_SET_MSRS(0x10)", (0x10, 0)),
        "set_cpuid": ("KVM_SET_CPUID2", ([CpuidEntry()],)),
        "get_debugregs": ("KVM_GET_DEBUGREGS", ()),
        "set_debugregs": ("KVM_SET_DEBUGREGS", (Debugregs(),)),
        "set_xcr0": ("KVM_SET_XCRS", (1,)),
        "set_runnable": ("KVM_SET_MP_STATE", ()),
        "tsc_khz": ("KVM_GET_TSC_KHZ", ()),
    },
}


@pytest.mark.parametrize(
    ("kind", "method"), [(kind, method) for kind, known in WRAPPERS.items() for method in known]
)
def test_a_failing_ioctl_is_named(kind: type, method: str, null: int) -> None:
    wrapper: Any = object.__new__(kind)
    wrapper.fd = null
    wrapper.index = 0
    ioctl, arguments = WRAPPERS[kind][method]
    with pytest.raises(KvmError) as raised:
        getattr(wrapper, method)(*arguments)
    assert str(raised.value).startswith(f"{ioctl} failed: ")
    assert raised.value.errno == errno.ENOTTY
    assert raised.value.exit_status == 1


@pytest.mark.parametrize("kind", WRAPPERS)
def test_every_wrapper_is_tested(kind: type) -> None:
    public = {name for name in vars(kind) if not name.startswith("_")} - {"close"}
    assert public == WRAPPERS[kind].keys()


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
