"""How much of xenstore one unprivileged domain may use (quotas[] in tools/xenstored/domain.c)."""

from kvmxen.xenstore.tree cimport Node

from dataclasses import dataclass, fields, replace

from kvmxen.xen.abi.xs_wire import REL_PATH_MAX

# The bytes that Xen counts for a node beside its content: struct node_hdr and struct
# xs_permissions.
cdef enum:
    HEADER_BYTES = 16
    PERMISSION_BYTES = 8


@dataclass(frozen=True)
class Quota:
    """Limits, by default Xen's; 0 means no limit. Sizes are in bytes."""

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

    def with_limit(self, name, limit):
        """A copy with the limit that the wire calls `name`, one of QUOTA_NAMES."""
        return replace(self, **{name.replace("-", "_"): limit})

    def limit(self, name):
        """The limit that the wire calls `name`, one of QUOTA_NAMES."""
        return getattr(self, name.replace("-", "_"))


QUOTA_NAMES = tuple([item.name.replace("_", "-") for item in fields(Quota)])


cpdef Py_ssize_t node_size(bytes value, Py_ssize_t permissions, Py_ssize_t listing):
    """The bytes that count against a node's size; `listing` is the length of its children's
    names."""
    return HEADER_BYTES + permissions * PERMISSION_BYTES + len(value) + listing


cpdef Py_ssize_t node_memory(str path, Node node):
    """The bytes that count against its owner's memory: a name counts here, not for the parent."""
    return len(path) + node_size(node.value, len(node.permissions), 0)
