"""How much of xenstore one unprivileged domain may use (quotas[] in tools/xenstored/domain.c)."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.tree import Node

# What Xen counts for a node beside its content: struct node_hdr and struct xs_permissions.
_HEADER_BYTES = 16
_PERMISSION_BYTES = 8


@dataclass(frozen=True)
class Quota:
    """Xen's defaults; each is the most that is allowed. Sizes and memory are in bytes."""

    nodes: int = 1000
    watches: int = 128
    node_size: int = 2048
    transactions: int = 10
    permissions: int = 5
    transaction_nodes: int = 1024
    outstanding: int = 20
    memory: int = 2560 << 10


@dataclass(slots=True)
class Domain:
    """A domain that xenstore knows of, and what it uses."""

    domid: int
    quota: Quota = field(default_factory=Quota)
    introduced: bool = False
    nodes: int = 0
    watches: int = 0
    transactions: int = 0
    memory: int = 0

    def allows(self, what: str, amount: int) -> bool:
        """Whether the domain may have `amount` of `what`, a field of Quota; dom0 always may."""
        return self.domid == DOM0 or amount <= getattr(self.quota, what)


def node_size(value: bytes, permissions: int, listing: int) -> int:
    """Bytes that count against a node's size: `listing` is the length of its children's names."""
    return _HEADER_BYTES + permissions * _PERMISSION_BYTES + len(value) + listing


def node_memory(path: str, node: Node) -> int:
    """Bytes that count against its owner's memory: its name is counted here, not its parent's."""
    return len(path) + node_size(node.value, len(node.permissions), 0)
