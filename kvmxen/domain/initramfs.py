"""An initial ramdisk with a shell, around the host's static busybox."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.errors import KvmxenError

if TYPE_CHECKING:
    from kvmxen.domain.modules import Module

_PATHS = ("/bin/busybox", "/usr/bin/busybox", "/usr/lib/initramfs-tools/bin/busybox")
_INSTALL = "install a static one (Debian's package busybox-static)"
_FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin")

# setsid -c makes hvc0 the controlling terminal; a shell without one has no job control.
INIT = """\
#!/bin/busybox sh
export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root TERM=linux
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
hostname kvmxen
ip link set lo up 2>/dev/null
# What the kernel runs when it is asked to end, and a person does: there is no init to signal.
for end in poweroff reboot halt; do
    rm -f /sbin/$end
    printf '#!/bin/sh\\nexec /bin/busybox %s -f "$@"\\n' $end >/sbin/$end
    chmod +x /sbin/$end
    # A shell of busybox prefers its own to what is in the path.
    echo "alias $end=/sbin/$end" >>/etc/profile
done
# In the order of their numbers, each after those that it needs.
for module in /lib/modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done
for vif in /sys/bus/xen/drivers/vif/vif-*; do
    [ -e "$vif" ] || continue
    card=$(ls "$vif/net")
    [ -n "$card" ] || continue
    ip link set "$card" up
    # It stays: it renews the lease, or goes on asking if nobody answered.
    udhcpc -i "$card" -s /etc/udhcpc -t 3 -T 1 -b >/dev/null 2>&1
done
# As large as the terminal of whoever started the domain, if there is one.
[ -f /etc/winsize ] && stty $(cat /etc/winsize) </dev/hvc0
cd /root
echo
ip -4 -o addr show scope global 2>/dev/null | while read -r _ card _ address _; do
    echo "$card has the address ${address%/*}."
done
echo "Linux $(uname -r), a Xen guest of kvmxen. Leave the shell to power off."
setsid -c sh -l </dev/hvc0 >/dev/hvc0 2>&1
poweroff -f
"""

# udhcpc calls this script with each event (see busybox's examples/udhcp/simple.script).
DHCP = """\
#!/bin/sh
case $1 in
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in $router; do
        ip route replace default via "$gateway" dev "$interface" && break
    done
    for server in $dns; do
        echo "nameserver $server"
    done >/etc/resolv.conf
    ;;
deconfig)
    ip addr flush dev "$interface"
    ;;
esac
"""


@dataclass(frozen=True)
class Entry:
    """A file of an archive: its path with no leading slash, its st_mode, its content.

    The `content` of a symbolic link is its target; `device` is (major, minor).
    """

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | 0o755)


def program(path: str, content: bytes) -> Entry:
    """An executable file."""
    return Entry(path, stat.S_IFREG | 0o755, content)


def build_cpio(entries: Iterable[Entry]) -> bytes:
    """The cpio archive of `entries`, all owned by root, as an uncompressed initial ramdisk.

    The format is "newc": Linux's Documentation/driver-api/early-userspace/buffer-format.rst.
    Each folder must precede its contents, because a kernel does not create missing ones.
    """
    archive = bytearray()
    for inode, entry in enumerate(entries, 1):
        _append(archive, inode, entry)
    _append(archive, 0, Entry("TRAILER!!!", 0))
    return bytes(archive)


def _append(archive: bytearray, inode: int, entry: Entry) -> None:
    name = os.fsencode(entry.path) + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    size = len(entry.content)
    # inode mode uid gid links mtime size, device of the file, device it stands for, name, sum
    fields = (inode, entry.mode, 0, 0, links, 0, size, 0, 0, *entry.device, len(name), 0)
    archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
    archive += bytes(-len(archive) % 4)
    archive += entry.content
    archive += bytes(-len(archive) % 4)


def system(busybox: Path, init: str, *more: Entry) -> bytes:
    """An initial ramdisk of `busybox` (a static one) that runs `init`, a script for its sh.

    `more` comes after the folders of _FOLDERS.
    """
    return build_cpio(
        [
            *map(folder, ("usr", *_FOLDERS)),
            # The kernel opens it as init's standard streams, before there is a devtmpfs.
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            program("bin/busybox", _read_static(busybox)),
            program("init", init.encode()),
            *more,
        ]
    )


def shell_initramfs(
    busybox: Path | None = None,
    modules: Iterable[Module] = (),
    size: os.terminal_size | None = None,
) -> bytes:
    """An initial ramdisk with an interactive shell on hvc0; leaving it powers off.

    `busybox` defaults to the host's. The ramdisk loads `modules` in their order, asks for an
    address for each network card, and sets hvc0 to the `size` of the terminal that shows it.
    Raises KvmxenError if there is no busybox, or no static one.
    """
    drivers = [
        program(f"lib/modules/{number:03}-{module.name}.ko", bytes(module.image))
        for number, module in enumerate(modules)
    ]
    more = [*map(folder, ("lib", "lib/modules")), *drivers, program("etc/udhcpc", DHCP.encode())]
    if size is not None:
        more.append(_winsize(size))
    return system(busybox or find_busybox(), INIT, *more)


def _winsize(size: os.terminal_size) -> Entry:
    words = f"rows {size.lines} cols {size.columns}\n"
    return Entry("etc/winsize", stat.S_IFREG | 0o644, words.encode())


def find_busybox() -> Path:
    """The host's busybox, a static one if it has both; raises KvmxenError if it has none."""
    on_path = shutil.which("busybox")
    candidates = [Path(path) for path in (on_path, *_PATHS) if path and Path(path).is_file()]
    if not candidates:
        raise KvmxenError(f"--shell needs busybox, which is not installed: {_INSTALL}")
    return next((path for path in candidates if is_static(path.read_bytes())), candidates[0])


def is_static(image: bytes) -> bool:
    """Whether `image` is a 64-bit x86 ELF program that needs no loader (no PT_INTERP, elf(5))."""
    if image[:6] != b"\x7fELF\x02\x01" or len(image) < 64:
        return False
    machine = struct.unpack_from("<H", image, 18)[0]
    table, size, count = *struct.unpack_from("<Q", image, 32), *struct.unpack_from("<HH", image, 54)
    if machine != 62 or table + size * count > len(image):
        return False
    types = {struct.unpack_from("<I", image, table + size * n)[0] for n in range(count)}
    return 1 in types and 3 not in types


def _read_static(busybox: Path) -> bytes:
    try:
        image = busybox.read_bytes()
    except OSError as error:
        raise KvmxenError(f"cannot read {busybox}: {error.strerror}") from error
    if not is_static(image):
        raise KvmxenError(f"{busybox} is not a statically linked program: {_INSTALL}")
    return image
