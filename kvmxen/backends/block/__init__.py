"""The block backend: disks for the guest, on files, block devices and qemu's images."""
