"""A program of its own: it gives up the rights that its successor does not need, then executes it.

    python -I -S confine.py PARENT SOCKET READ-ONLY WRITABLE FOLDER -- PROGRAM ARGUMENT...

command() makes this command line. PROGRAM must not outlive the process PARENT. SOCKET, a number
above 3 or nothing, is the listening socket, which PROGRAM finds as systemd's services do
(sd_listen_fds(3)). READ-ONLY and WRITABLE are the descriptors, separated by commas, of the files
that PROGRAM may reopen; FOLDER, a path or nothing, is where it may make files. This program
imports nothing of kvmxen, so that it starts quickly.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NoReturn

# linux/prctl.h, linux/capability.h.
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 1, 38, 24, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
# Images can belong to other users.
CAP_DAC_OVERRIDE = 1 << 1
# linux/landlock.h, and the x86-64 numbers of its system calls.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULESET_VERSION, RULE_PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
REMOVE_FILE, MAKE_REG = 1 << 5, 1 << 8
# The number of file rights, and of bind and connect rights, that each ABI version knows.
FILE_RIGHTS = (13, 14, 15, 15, 16)
NET_RIGHTS, NET_SINCE = 3, 4
SCOPES, SCOPES_SINCE = 3, 6

FIRST_SOCKET = 3
# Bytes that a program may write to a file that it makes.
MAX_FILE = 1 << 30

# Folders that hold only programs and libraries; one package's may be anywhere in them.
PACKAGES = ("/usr", "/opt", "/nix", "/gnu")

libc = ctypes.CDLL(None, use_errno=True)


def command(
    program: Sequence[str],
    *,
    socket: int | None = None,
    readonly: Iterable[int] = (),
    writable: Iterable[int] = (),
    folder: str = "",
) -> list[str]:
    """The command line that runs `program`, its path and arguments, with these rights alone.

    The descriptors must be passed on by their numbers.
    """
    return [
        *(sys.executable, "-I", "-S", __file__, str(os.getpid())),
        "" if socket is None else str(socket),
        *(",".join(map(str, fds)) for fds in (readonly, writable)),
        *(folder, "--", *program),
    ]


def check(result: int, what: str) -> int:
    """Return `result`; end the process if it is negative."""
    if result < 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        sys.exit("whoever started it has ended")


def drop_capabilities() -> None:
    """Drop all capabilities, or keep one of root's, and gain none by executing a program."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITY_VERSION_3, 0))
    # Effective, permitted, inheritable; then the same of those from 32 on.
    data = ctypes.create_string_buffer(24)
    check(libc.capget(header, data), "capget")
    kept = struct.unpack_from("I", data, 4)[0] & (CAP_DAC_OVERRIDE if os.geteuid() == 0 else 0)
    for number in range(64):
        if not kept >> number & 1:
            # This fails without the right to it; exec then grants no capability either.
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    struct.pack_into("6I", data, 0, kept, kept, 0, 0, 0, 0)
    check(libc.capset(header, data), "capset")


def consists_of(program: str) -> dict[str, int]:
    """The paths that a program and its libraries are read from, with the rights to each.

    A program elsewhere, in a person's home, has its libraries in ../lib or none at all; an image
    must not see what else lies around it.
    """
    path = os.path.realpath(program)
    parts = path.split("/")[1:]
    top = f"/{parts[0]}"
    own = top if top in PACKAGES else "/".join(["", *parts[:-2], "lib"])
    paths = dict.fromkeys(("/usr", "/bin", "/lib", "/lib64", own), EXECUTE | READ_FILE | READ_DIR)
    return paths | {path: EXECUTE | READ_FILE}


def restrict_files(
    program: str, readonly: Iterable[int], writable: Iterable[int], folder: str
) -> None:
    """Allow only the files with these descriptors, those in the folder, and those that the program
    consists of, if the host's kernel has Landlock (Linux 5.13)."""
    version = libc.syscall(CREATE_RULESET, None, 0, RULESET_VERSION)
    if version < 1:
        return
    rights = (1 << FILE_RIGHTS[min(version, len(FILE_RIGHTS)) - 1]) - 1
    handled = struct.pack(
        "QQQ",
        rights,
        NET_RIGHTS if version >= NET_SINCE else 0,
        SCOPES if version >= SCOPES_SINCE else 0,
    )
    size = 24 if version >= SCOPES_SINCE else 16 if version >= NET_SINCE else 8
    ruleset = check(libc.syscall(CREATE_RULESET, handled, size, 0), "landlock_create_ruleset")

    def allow(fd: int, access: int) -> None:
        rule = struct.pack("=Qi", access & rights, fd)
        result = libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
        # A pipe or memfd is in a file system of the kernel's own, which Landlock does not
        # restrict.
        if ctypes.get_errno() != errno.EBADFD:
            check(result, "landlock_add_rule")

    # qemu opens /dev/null to find out whether files can be locked, and reads a block device's
    # limits from /sys.
    paths = consists_of(program)
    paths |= {"/sys/devices": READ_FILE | READ_DIR}
    paths |= {"/etc/ld.so.cache": READ_FILE, "/dev/urandom": READ_FILE}
    paths |= {"/dev/null": READ_FILE | WRITE_FILE}
    if folder:
        paths[folder] = READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | MAKE_REG | REMOVE_FILE
    for path, access in paths.items():
        with suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allow(place, access)
            os.close(place)
    for access, files in ((READ_FILE, readonly), (READ_FILE | WRITE_FILE | TRUNCATE, writable)):
        for fd in files:
            device = IOCTL_DEV if stat.S_ISBLK(os.fstat(fd).st_mode) else 0
            allow(fd, access | device)
    check(libc.syscall(RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def numbers(text: str) -> list[int]:
    """The numbers in `text`, separated by commas."""
    return [int(word) for word in text.split(",") if word]


def main() -> NoReturn:
    """See above."""
    parent, socket, readonly, writable, folder, _, *program = sys.argv[1:]
    end_with(int(parent))
    drop_capabilities()
    restrict_files(program[0], numbers(readonly), numbers(writable), folder)
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    if folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    if socket:
        os.dup2(int(socket), FIRST_SOCKET)
        os.close(int(socket))
        environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os.execve(program[0], program, environment)


if __name__ == "__main__":
    main()
