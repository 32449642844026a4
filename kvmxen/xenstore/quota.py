"""How much of xenstore one unprivileged domain may use (quotas[] in tools/xenstored/domain.c)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from kvmxen.abi.xs_wire import REL_PATH_MAX, Feature
from kvmxen.xenstore.permissions import DOM0, Permissions, rights
from kvmxen.xenstore.tree import Node

FEATURES = Feature.RECONNECTION | Feature.ERROR | Feature.WATCHDEPTH | Feature.DOMID_ANY

# What Xen counts for a node beside its content: struct node_hdr and struct xs_permissions.
_HEADER_BYTES = 16
_PERMISSION_BYTES = 8


@dataclass(frozen=True)
class Quota:
    """Xen's defaults; each is the most that is allowed, 0 is no limit. Sizes are in bytes."""

    nodes: int = 1000
    watches: int = 128
    outstanding: int = 20
    memory: int = 2560 << 10
    soft_memory: int = 2048 << 10
    transactions: int = 10
    transaction_nodes: int = 1024
    node_permissions: int = 5
    path_max: int = REL_PATH_MAX
    node_size: int = 2048

    def with_limit(self, name: str, limit: int) -> Quota:
        """Another quota with the limit that the wire calls `name`, one of QUOTA_NAMES."""
        return replace(self, **{name.replace("-", "_"): limit})

    def limit(self, name: str) -> int:
        """The limit that the wire calls `name`, one of QUOTA_NAMES."""
        value: int = getattr(self, name.replace("-", "_"))
        return value


QUOTA_NAMES = tuple(item.name.replace("_", "-") for item in fields(Quota))


@dataclass(slots=True, eq=False)
class Domain:
    """A domain that xenstore knows of, and what it uses.

    `target` is the domain that it may act as (SET_TARGET); `shutdown` says that its end was
    told; `peaks` has the most that it used of each quota.
    """

    domid: int
    quota: Quota = field(default_factory=Quota)
    introduced: bool = False
    shutdown: bool = False
    features: int = int(FEATURES)
    target: Domain | None = None
    nodes: int = 0
    watches: int = 0
    transactions: int = 0
    memory: int = 0
    peaks: dict[str, int] = field(default_factory=dict)

    def allows(self, what: str, amount: int) -> bool:
        """Whether the domain may have `amount` of `what`, a field of Quota; dom0 always may."""
        limit = getattr(self.quota, what)
        if limit and amount > limit and self.domid != DOM0:
            return False
        if amount > self.peaks.get(what, 0):
            self.peaks[what] = amount
        return True

    def rights(self, permissions: Permissions) -> int:
        """The READ, WRITE and OWNER bits that the domain has by `permissions`."""
        target = self.target
        return rights(permissions, self.domid, target.domid if target else self.domid)


def node_size(value: bytes, permissions: int, listing: int) -> int:
    """Bytes that count against a node's size: `listing` is the length of its children's names."""
    return _HEADER_BYTES + permissions * _PERMISSION_BYTES + len(value) + listing


def node_memory(path: str, node: Node) -> int:
    """Bytes that count against its owner's memory: its name is counted here, not its parent's."""
    return len(path) + node_size(node.value, len(node.permissions), 0)
