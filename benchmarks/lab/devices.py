"""A disk and a network interface, the same for every monitor, and the guest's work on them.

The disk is a block device in the machine's memory and bypasses the page cache on both sides, so a
request costs only its way there. The network is a tap device with an address.
"""

from __future__ import annotations

HOST_MODULES = ("brd", "tun")
GUEST_MODULES = ("xen_blkfront", "xen_netfront")
_DISK = "/dev/ram0"
_TAP, _HOST, _GUEST = "tap0", "10.9.0.1", "10.9.0.2"
RAMDISK = "/guest/devices"
# Under the pv-shim in the lab's machine, a signal frame with XSAVE state cannot be restored.
CMDLINE = "console=hvc0 quiet noxsave"

# The measurements of disk.c and net.c.
REQUESTS = {
    "read_4k_1": "4 KiB random read, depth 1",
    "read_4k_32": "4 KiB random read, depth 32",
    "write_4k_1": "4 KiB random write, depth 1",
    "write_4k_32": "4 KiB random write, depth 32",
    "read_128k_8": "128 KiB sequential read, depth 8",
    "write_128k_8": "128 KiB sequential write, depth 8",
    "there_and_back": "UDP packet there and back",
    "packets_out": "UDP packet out, 32 in a row",
    "packets_in": "UDP packet in, 32 in a row",
    "bulk_out": "TCP, 64 KiB out",
    "bulk_in": "TCP, 64 KiB in",
}
KVMXEN = ("--disk", f"{_DISK},cache=none", "--net", f"tap={_TAP}")
QEMU = (
    *("-drive", f"file={_DISK},if=none,id=disk,format=raw,cache=none,aio=io_uring"),
    *("-device", "xen-disk,drive=disk,vdev=xvda"),
    *("-netdev", f"tap,id=net,ifname={_TAP},script=no,downscript=no"),
    *("-device", "xen-net-device,netdev=net"),
)

# The machine's end of both; the disk's memory is allocated before the measurement.
HOST_SETUP = f"""
dd if=/dev/zero of={_DISK} bs=1M 2>/dev/null
tunctl -t {_TAP} >/dev/null
ip address add {_HOST}/24 dev {_TAP}
ip link set {_TAP} up
/bin/net &
"""
GUEST_INIT = f"""#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t sysfs sysfs /sys
echo the init runs
for module in /lib/*.ko; do
    insmod $module
done
for try in $(seq 1000); do
    [ -b /dev/xvda -a -e /sys/class/net/eth0 ] && break
    usleep 10000
done
disk /dev/xvda
ip address add {_GUEST}/24 dev eth0
ip link set eth0 up
net {_HOST}
echo the end
poweroff -f
"""
