"""libvirt's RPC: its clients, such as virsh, drive kvmxen's domains."""
