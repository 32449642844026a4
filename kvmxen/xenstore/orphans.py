"""Removes a domain's nodes when it goes (domain_tree_remove() in tools/xenstored/domain.c).

Its nodes go with all below them, and so do permissions that name it: a new domain with the same
number inherits nothing.
"""

from __future__ import annotations

from kvmxen.xenstore.access import Access
from kvmxen.xenstore.domain import Domain
from kvmxen.xenstore.paths import ancestry
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.tree import Node
from kvmxen.xenstore.view import View


def disown(view: View, dom0: Domain, domid: int, specials: tuple[str, ...]) -> None:
    """Remove the domain `domid` from the nodes of `view` and from the special nodes."""
    nodes = [item for root in ("/", *specials) for item in view.walk(root)]
    gone = {path for path, node in nodes if node.owner == domid and path not in ("/", *specials)}
    tops = [path for path in gone if gone.isdisjoint(list(ancestry(path))[1:])]
    for path, node in nodes:
        if any(p.domid == domid for p in node.permissions) and gone.isdisjoint(ancestry(path)):
            _purge(view, path, node, domid)
    access = Access(view, dom0)
    for path in sorted(tops):
        access.rm(path)


def _purge(view: View, path: str, node: Node, domid: int) -> None:
    owner, *others = node.permissions
    if owner.domid == domid:
        owner = owner._replace(domid=DOM0)
    view.put(path, node.value, (owner, *(p for p in others if p.domid != domid)))
