#!/bin/busybox sh
# The measured machine's init: KVM, its tracepoints, and one program; everything is in memory.
export PATH=/bin HOME=/run XDG_CACHE_HOME=/cache PYTHONDONTWRITEBYTECODE=1
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
for module in $(cat /lab/modules); do
    insmod "/lab/$module" || echo "lab: no $module" >&2
done
ip link set lo up
. /lab/devices
# Files that are seconds old are the cache's of kernels to trust; the clock jumps over the time.
sleep 5
cd /lab
# A word of the kernel's command line, if any.
/venv/bin/python3 -m benchmarks.lab.inside $(echo "$jobs" | tr , " ") 2>&1
poweroff -f
