#!/bin/busybox sh
# The lab's init: the host's file system, read-only, with a layer of memory above it, and KVM.
# What to run there is in /lab/command, with the first serial port for its terminal. The second
# is the log: the kernel's, and the command's exit status.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
for module in $(cat /lab/modules); do
    insmod "/lab/$module" || echo "lab: no $module" >&2
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower
mount -t tmpfs -o mode=755 tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/dev/lab
mount -t devpts -o ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
# The one folder that surely hides nothing of the host's, as the repository may be anywhere.
mount -t tmpfs tmpfs /root/dev/lab
ip link set lo up
cp /lab/command /root/dev/lab/command
# The root of the mounts, as only there a process may make a user namespace: passt's sandbox.
cd /root
mount -o move . /
# A terminal of its own, for job control and Ctrl-C.
setsid -c chroot . /bin/sh /dev/lab/command </dev/ttyS0 >/dev/ttyS0 2>&1
echo "lab: exit status $?" >/dev/ttyS1
poweroff -f
