"""Creates the devices that a configuration asks for, ready for the bus."""

from __future__ import annotations

from kvmxen.backends.peer import Peer
from kvmxen.backends.xenbus import Device
from kvmxen.config.disk import DiskSpec
from kvmxen.config.net import NetSpec, generate_mac


def block_device(peer: Peer, spec: DiskSpec) -> Device:
    """The disk that `spec`, which has a target, describes; raises KvmxenError."""
    # Imported here: a domain without disks should not pay for it.
    from kvmxen.backends.block.vbd import Vbd

    return Vbd(peer, spec)


def net_device(peer: Peer, index: int, spec: NetSpec, *, domain: str, vcpus: int) -> Device:
    """Network interface `index` of the domain named `domain`; raises KvmxenError."""
    # Imported here: a domain without networks should not pay for it.
    from kvmxen.backends.net.passt import Passt
    from kvmxen.backends.net.tap import Tap
    from kvmxen.backends.net.vif import Vif

    wire = Passt(f"vif{index}", spec) if spec.kind == "user" else Tap(spec.name, spec.bridge)
    mac = spec.mac or generate_mac(domain, index)
    return Vif(peer, index, wire, mac=mac, queues=vcpus, rate=spec.rate)
