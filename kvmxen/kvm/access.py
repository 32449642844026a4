"""Checks whether the user may use /dev/kvm, and says what to do if not.

`python3 -m kvmxen.kvm.access` works before anything is built, because this module needs only
Python.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
import sys
from pathlib import Path

from kvmxen.errors import KvmxenError
from kvmxen.streams import say

DEVICE = Path("/dev/kvm")


def open_device(device: Path = DEVICE) -> int:
    """Open `device`; on failure raises KvmxenError, which says what to do."""
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise KvmxenError(missing(device, Path("/proc/cpuinfo").read_text())) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise KvmxenError(no_permission(device, device.stat(), os.geteuid())) from None
        why = os.strerror(error.errno or 0)
        raise KvmxenError(f"cannot open {device}: {why}; see 'kvmxen doctor'") from None


def missing(device: Path, cpuinfo: str) -> str:
    """What to do if there is no `device`; `cpuinfo` is the text of /proc/cpuinfo."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    for flag, module in {"vmx": "kvm_intel", "svm": "kvm_amd"}.items():
        if flags and flag in flags[1].split():
            return (
                f"this host has no {device}: load its module with 'sudo modprobe {module}', "
                f"or pass the device to this container (--device {device})"
            )
    return (
        f"this host has no {device}, and its CPU reports no virtualisation: enable it in the "
        "firmware, or enable nested virtualisation in the hypervisor that this host runs on"
    )


def no_permission(device: Path, status: os.stat_result, uid: int) -> str:
    """What user `uid` can do if they may not open `device`, which has `status`."""
    if uid == 0:
        return f"root may not open {device}: pass the device to this container (--device {device})"
    user, group = _name_of_user(uid), _name_of_group(status.st_gid)
    acl = f"'sudo setfacl -m u:{user}:rw {device}'"
    shared = stat.S_IRGRP | stat.S_IWGRP
    if status.st_gid and status.st_mode & shared == shared:
        return (
            f"you may not open {device}: join its group with 'sudo usermod -aG {group} {user}' "
            f"and log in again, or use {acl} until the next boot"
        )
    return f"you may not open {device}, which belongs to {group}: allow it with {acl}"


def _name_of_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"group {gid}"


def _main() -> int:
    try:
        os.close(open_device())
    except KvmxenError as error:
        say(str(error))
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(_main())
