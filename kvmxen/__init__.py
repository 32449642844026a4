"""kvmxen boots Xen guests on a plain Linux host: /dev/kvm and Python, no Xen."""

__version__ = "0.1.0"
