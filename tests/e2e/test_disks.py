"""Disks: Debian's kernel with its own blkfront; the host examines the file systems afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmxen.backends.net.passt import ADDRESS, GATEWAY
from tests import packages
from tests.e2e import disks
from tests.e2e.disks import DiskRamdisk
from tests.e2e.domain import LIMIT, ROOT, Boot
from tests.e2e.network import passt
from tests.e2e.smallfs import Unavailable, small_file_system
from tests.unit.backends.fake_domain import wait_until

VERSION = "6.1"
QUIET = ("--cmdline", "console=hvc0 quiet", "--timeout", LIMIT)
WAIT = 240.0
Kvmxen = Callable[..., str]
# Each kill needs a boot.
KILLS = int(os.environ.get("KVMXEN_TEST_KILLS", "2"))


@pytest.fixture
def kernel(debian_kernel: Callable[[str], Path]) -> Path:
    return debian_kernel(VERSION)


@pytest.fixture(scope="session")
def diskload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disks.compile_diskload(tmp_path_factory.mktemp("diskload"))


@pytest.fixture
def disk_ramdisk(tmp_path: Path, diskload: Path) -> DiskRamdisk:
    def make(script: str) -> Path:
        try:
            return disks.make_ramdisk(tmp_path / "ramdisk", VERSION, script, diskload)
        except packages.Unavailable as error:
            pytest.skip(f"needs Debian's kernel and busybox: {error}")

    return make


@pytest.fixture
def kvmxen(environment: dict[str, str]) -> Kvmxen:
    """kvmxen(*arguments): the output of the command."""

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "kvmxen", *arguments]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=WAIT
        )
        # A guest may take longer to release a disk than the command waits.
        assert result.returncode == 0 or "the guest still uses" in result.stderr, result.stderr
        return result.stdout

    return call


FILES = 5000
FILE_SYSTEM = f"""
grep -H . /sys/block/*/size /sys/block/*/ro
mkfs.ext4 -q -t ext4 /dev/xvda && mount /dev/xvda /mnt && mkdir /mnt/tree || echo "[failed]"
diskload tree /mnt/tree {FILES} || echo "[failed]"
cd /mnt/tree
find . -type f | xargs sha256sum >/tmp/SUMS && mv /tmp/SUMS SUMS
sync
echo 3 >/proc/sys/vm/drop_caches
sha256sum -c SUMS >/tmp/checked || echo "[failed]"
echo "[right: $(grep -c OK /tmp/checked)]"
cd /
umount /mnt
dd if=/dev/zero of=/dev/xvdb bs=4k count=1 conv=fsync 2>&1 | sed 's/.*/[&]/'
sha256sum /dev/xvdb
poweroff -f
"""


def test_a_file_system(boot: Boot, kernel: Path, disk_ramdisk: DiskRamdisk, tmp_path: Path) -> None:
    """mkfs in the guest and 5,000 files with checksums: the host finds them clean and
    unchanged; and a second, read-only disk."""
    image = disks.empty_image(tmp_path / "image", 128)
    other = tmp_path / "other"
    other.write_bytes(b"only to be read\n" * 4096)
    ramdisk = disk_ramdisk(FILE_SYSTEM)
    domain = boot(kernel, "--ramdisk", ramdisk, "--disk", image, "--disk", f"{other},ro", *QUIET)
    domain.expect(rf"xvda/size:{128 << 11}\n.*xvdb/size:128\n.*xvda/ro:0\n.*xvdb/ro:1\n", WAIT)
    domain.expect(rf"\[right: {FILES}\]", WAIT)
    domain.expect(r"\[dd: [^\]]*(?:read-only|not permitted)[^\]]*\]", WAIT)
    assert domain.expect(r"([0-9a-f]{64})  /dev/xvdb", WAIT)[1] == disks.sha256(other)
    domain.ends(0, WAIT)
    assert "[failed]" not in domain.output
    disks.assert_clean(image)
    tree = disks.dump(image, "/tree", tmp_path / "dump")
    assert disks.check_sums(tree) == FILES
    assert other.read_bytes() == b"only to be read\n" * 4096


ROOT_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox grep ' / ' /proc/mounts
echo "[from the disk: $(/bin/busybox cat /etc/name)]"
/bin/busybox mount -o remount,rw / && echo was here >/etc/visit
/bin/busybox mount -o remount,ro /
/bin/busybox poweroff -f
"""
SWITCH_ROOT = """
mount -o ro /dev/xvda /mnt && exec switch_root /mnt /init
echo "[failed]"
poweroff -f
"""


def test_a_root_file_system(
    boot: Boot, kernel: Path, disk_ramdisk: DiskRamdisk, busybox: Path, tmp_path: Path
) -> None:
    """ext4 made by mke2fs -d on the host is the guest's root, up to its init."""
    tree = tmp_path / "root"
    for name in ("bin", "dev", "etc", "proc"):
        (tree / name).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(busybox.read_bytes())
    (tree / "init").write_text(ROOT_INIT)
    (tree / "etc/name").write_text("a root of its own\n")
    for path in (tree / "init", tree / "bin/busybox"):
        path.chmod(0o755)
    image = disks.make_file_system(tmp_path / "image", 64, tree)
    domain = boot(kernel, "--ramdisk", disk_ramdisk(SWITCH_ROOT), "--disk", image, *QUIET)
    domain.expect(r"/dev/(?:xvda|root) / ext4 ro", WAIT)
    domain.expect(r"\[from the disk: a root of its own\]", WAIT)
    domain.ends(0, WAIT)
    assert "[failed]" not in domain.output
    disks.assert_clean(image)
    assert disks.dump(image, "/etc", tmp_path / "dump").joinpath("visit").read_text() == (
        "was here\n"
    )


SYNCS = """
mount /dev/xvda /mnt && diskload syncs /mnt/records
"""


@pytest.mark.parametrize("round_", range(KILLS))
def test_what_was_synced_survives_a_kill(
    boot: Boot, kernel: Path, disk_ramdisk: DiskRamdisk, tmp_path: Path, round_: int
) -> None:
    """After SIGKILL amid writes, every record whose fsync returned in the guest is on the disk."""
    image = disks.make_file_system(tmp_path / "image", 64)
    domain = boot(kernel, "--ramdisk", disk_ramdisk(SYNCS), "--disk", image, *QUIET)
    domain.expect(rf"\[synced {20 + 7 * round_}\]", WAIT)
    domain.process.send_signal(signal.SIGKILL)
    assert domain.wait() == -signal.SIGKILL
    # The next process would remove what a killed one leaves.
    shutil.rmtree(tmp_path / "run")
    synced = [int(number) for number in re.findall(r"\[synced (\d+)\]", domain.output)]
    disks.replay(image)
    disks.assert_clean(image)
    (tmp_path / "dump").mkdir()
    disks.run("debugfs", "-R", f"dump /records {tmp_path / 'dump/records'}", image)
    records = (tmp_path / "dump/records").read_bytes()
    assert len(records) >= (synced[-1] + 1) * 512
    for number in synced:
        record = records[number * 512 : (number + 1) * 512]
        expected = str(number).encode() + b"\0"
        assert record == expected + bytes([ord("a") + number % 26]) * (512 - len(expected))


RECORDS = 4096
FILL = f"""
diskload fill /dev/xvda {RECORDS} || echo "[failed]"
poweroff -f
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """The folder of a file system with room for 24 MiB, of which "ballast" takes 16 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    try:
        with small_file_system(where, 24) as path:
            (path / "ballast").write_bytes(bytes(16 << 20))
            yield path
    except Unavailable as error:
        pytest.skip(f"needs {error}")


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_full_host(
    boot: Boot, kernel: Path, disk_ramdisk: DiskRamdisk, small: Path, tmp_path: Path, form: str
) -> None:
    """If the host has no room, a write is an error in the guest, which continues and loses
    nothing that was written; once there is room, the same write succeeds."""
    image, raw = small / "image", tmp_path / "raw"
    disks.run("qemu-img", "create", "-q", "-f", form, image, str(RECORDS << 12))
    options = ("--ramdisk", disk_ramdisk(FILL), "--disk", f"{image},format={form}")
    domain = boot(kernel, *options, *QUIET)
    domain.expect(r"\[record \d+: (?:I/O|Input/output) error\]", WAIT)
    domain.expect(r"\[all before it are there\]", WAIT)
    (small / "ballast").unlink()
    domain.send("go\n")
    domain.expect(r"\[filled\]", WAIT)
    domain.ends(0, WAIT)
    assert "[failed]" not in domain.output
    disks.run("qemu-img", "convert", "-f", form, "-O", "raw", image, raw)
    content = raw.read_bytes()
    for n in range(RECORDS):
        record = content[n << 12 : (n + 1) << 12]
        expected = str(n).encode() + b"\0"
        assert record == expected + bytes([ord("a") + n % 26]) * (4096 - len(expected))


# A disk's folder in /sys appears before its node, and the node before the disk can be opened. The
# kernel's messages about I/O errors must not interrupt another vCPU's lines.
PLUG = f"""
dmesg -n 1
readable() {{ dd if=/dev/$1 of=/dev/null count=1 2>/dev/null; }}
echo "[queues: $(ls /sys/block/xvda/mq | wc -l)]"
diskload hammer /dev/xvda {64 << 20} &
mkfs.ext4 -q -t ext4 /dev/xvdb && mount -o discard /dev/xvdb /mnt || echo "[failed]"
dd if=/dev/urandom of=/mnt/big bs=1M count=24 2>/dev/null
sync
echo "[full]"
read go
rm /mnt/big
sync
fstrim /mnt
umount /mnt
until set -- $(cat /sys/block/xvda/stat) && [ $1 -gt 0 ] && [ $5 -gt 0 ]; do sleep 0.1; done
echo "[trimmed]"
until readable xvdc; do sleep 0.1; done
echo "[plugged: $(sha256sum /dev/xvdc)]"
while [ -e /sys/block/xvdc ]; do sleep 0.1; done
echo "[unplugged]"
wait
while [ -e /sys/block/xvda ]; do sleep 0.1; done
echo vbd-51728 >/sys/bus/xen/drivers/vbd/unbind
rmmod xen_blkfront && insmod /mod/xen_blkfront.ko && echo "[loaded]" || echo "[failed]"
until readable xvdb; do sleep 0.1; done
mount /dev/xvdb /mnt && umount /mnt && echo "[again]"
poweroff -f
"""


def test_disks_that_come_and_go(
    boot: Boot, kernel: Path, disk_ramdisk: DiskRamdisk, tmp_path: Path, kvmxen: Kvmxen
) -> None:
    """4 vCPUs and 4 queues; qcow2 over a backing file, which discard shrinks; plugging and
    unplugging, also under load; and a driver that is loaded again."""
    images = [disks.empty_image(tmp_path / f"image{n}", 64) for n in range(3)]
    base = images[1].rename(tmp_path / "base")
    disks.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, images[1])
    images[2].write_bytes(b"plugged in\n" * 4096 * 8)
    over = f"{images[1]},format=qcow2,backing={base}"
    attached = ("--disk", images[0], "--disk", over)
    options = ("--ramdisk", disk_ramdisk(PLUG), "--vcpus", 4, "--name", "plug", *attached)
    domain = boot(kernel, *options, *QUIET)
    domain.expect(r"\[queues: 4\]", WAIT)
    domain.expect(r"\[full\]", WAIT)
    full = images[1].stat().st_blocks
    domain.send("go\n")
    domain.expect(r"\[trimmed\]", WAIT)
    assert images[1].stat().st_blocks < full - (20 << 11)
    assert kvmxen("block-attach", "plug", f"{images[2]},ro") == "xvdc\n"
    assert disks.sha256(images[2]) in domain.expect(r"\[plugged: (.*)\]", WAIT)[1]
    figures = json.loads(kvmxen("top", "plug", "--json"))
    assert set(figures) == {"vbd/51712", "vbd/51728", "vbd/51744"}
    assert figures["vbd/51712"]["reads"] > 0 < figures["vbd/51712"]["writes"]
    assert figures["vbd/51728"]["bytes_discarded"] > 20 << 20
    assert figures["vbd/51744"]["bytes_read"] >= images[2].stat().st_size
    assert kvmxen("block-detach", "plug", "xvdc") == ""
    domain.expect(r"\[unplugged\]", WAIT)
    # Under load: every process using the disk gets an error, and the rest continues.
    assert kvmxen("block-detach", "plug", "xvda") == ""
    domain.expect(r"(?:\[ended after \d+: [^\]]*\].*){4}", WAIT)
    # Linux's blkfront does not reconnect by itself to a device that it has released.
    domain.expect(r"\[loaded\]", WAIT)
    assert kvmxen("block-detach", "plug", "xvdb") == ""
    wait_until(lambda: "vbd/51728" not in json.loads(kvmxen("top", "plug", "--json")))
    assert kvmxen("block-attach", "plug", f"{over},target=xvdb") == "xvdb\n"
    domain.expect(r"\[again\]", WAIT)
    domain.ends(0, WAIT)
    assert "[failed]" not in domain.output
    assert not any(base.read_bytes())
    raw = tmp_path / "raw"
    disks.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", images[1], raw)
    disks.assert_clean(raw)


GROWS = """
size() { cat /sys/block/xvda/size; }
echo "[at first $(size)]"
until [ $(size) != 131072 ]; do sleep 0.1; done
echo "[then $(size)]"
dd if=/dev/zero of=/dev/xvda bs=512 seek=$(($(size) - 1)) count=1 conv=fsync || echo "[failed]"
read go
until [ $(size) != 196608 ]; do sleep 0.1; done
echo "[at last $(size)]"
dmesg | grep 'capacity change'
poweroff -f
"""


def test_a_disk_that_grows(
    boot: Boot, kernel: Path, disk_ramdisk: DiskRamdisk, tmp_path: Path, kvmxen: Kvmxen
) -> None:
    """The guest's kernel sees the new size, with block-resize or without."""
    image = disks.empty_image(tmp_path / "image", 64)
    options = ("--ramdisk", disk_ramdisk(GROWS), "--name", "grows", "--disk", image)
    domain = boot(kernel, *options, *QUIET)
    domain.expect(r"\[at first 131072\]", WAIT)
    disks.empty_image(image, 96)
    domain.expect(r"\[then 196608\]", WAIT)
    disks.empty_image(image, 128)
    assert kvmxen("block-resize", "grows", "xvda") == ""
    domain.send("go\n")
    domain.expect(r"\[at last 262144\]", WAIT)
    domain.expect(r"xvda: detected capacity change from 196608 to 262144", WAIT)
    domain.ends(0, WAIT)
    assert "[failed]" not in domain.output


REBOOT = f"""
mount /dev/xvda /mnt && echo visit >>/mnt/visits && sync || echo "[failed]"
ip link set eth0 up && ip address add {ADDRESS}/24 dev eth0
arping -q -f -w 60 -I eth0 {GATEWAY} || echo "[failed]"
visits=$(wc -l </mnt/visits)
echo "[visit $visits of $(uname -r)]"
if [ $visits = 1 ]; then
    diskload hammer /dev/xvdb {64 << 20} &
    until set -- $(cat /sys/block/xvdb/stat) && [ $1 -gt 50 ] && [ $5 -gt 50 ]; do sleep 0.1; done
    reboot -f
fi
umount /mnt
poweroff -f
"""


@pytest.mark.parametrize("version", ["6.1", "6.12"])
def test_a_reboot_amid_requests(
    boot: Boot,
    debian_kernel: Callable[[str], Path],
    diskload: Path,
    tmp_path: Path,
    version: str,
) -> None:
    """The guest finds its disks, raw and qcow2, and its network again."""
    if lack := passt.why_not():
        pytest.skip(f"needs {lack}")
    kernel = debian_kernel(version)
    image = disks.make_file_system(tmp_path / "image", 64)
    other = tmp_path / "other"
    disks.run("qemu-img", "create", "-q", "-f", "qcow2", other, "64M")
    ramdisk = disks.make_ramdisk(tmp_path / "ramdisk", version, REBOOT, diskload)
    attached = ("--disk", image, "--disk", f"{other},format=qcow2", "--net", "user")
    domain = boot(kernel, "--ramdisk", ramdisk, "--vcpus", 2, *attached, *QUIET)
    for visit in range(2):
        domain.expect(rf"\[visit {visit + 1} of {version}\.", WAIT)
    domain.ends(0, WAIT)
    assert "[failed]" not in domain.output
    assert domain.stderr == ""
    disks.assert_clean(image)
    disks.run("qemu-img", "check", "-q", other)


GRUB_CFG = """\
linux /boot/vmlinuz console=hvc0 quiet from=grub
initrd /boot/initrd
boot
"""
FROM_GRUB = """
grep -o from=grub /proc/cmdline
mount /dev/xvda /mnt && echo "[booted by $(ls /mnt/boot)]"
umount /mnt
poweroff -f
"""


def test_grub_boots_what_is_on_a_disk(
    boot: Boot, kernel: Path, disk_ramdisk: DiskRamdisk, pv_grub: Path, tmp_path: Path
) -> None:
    """PV GRUB reads its configuration, a kernel and a ramdisk through its own blkfront; then
    the kernel takes over the disk."""
    tree = tmp_path / "root" / "boot"
    (tree / "grub").mkdir(parents=True)
    shutil.copy(kernel, tree / "vmlinuz")
    shutil.move(disk_ramdisk(FROM_GRUB), tree / "initrd")
    (tree / "grub" / "grub.cfg").write_text(GRUB_CFG)
    image = disks.make_file_system(tmp_path / "image", 64, tree.parent)
    domain = boot(pv_grub, "--disk", image, "--timeout", LIMIT)
    domain.expect(r"from=grub\n", WAIT)
    domain.expect(r"\[booted by grub\ninitrd\nvmlinuz\]|\[booted by grub initrd vmlinuz\]", WAIT)
    domain.ends(0, WAIT)
    disks.assert_clean(image)
