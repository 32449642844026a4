"""Paths: which are well-formed, what they are relative to, and who their ancestors are.

A path in canonical form starts with "/" or, for the nodes that stand for special watches,
with "@"; it does not end in "/", but for the root (docs/misc/xenstore.txt).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from kvmxen.abi.xs_wire import ABS_PATH_MAX, REL_PATH_MAX
from kvmxen.xenstore.errors import XenstoreError

_WELL_FORMED = re.compile(r"/|/?[A-Za-z0-9_@-]+(?:/[A-Za-z0-9_@-]+)*").fullmatch
_DOMAIN_PREFIX = re.compile(r"/local/domain/[0-9]{1,5}/").match


def home(domid: int) -> str:
    """What the relative paths of a domain start from."""
    return f"/local/domain/{domid}"


def canonical(path: str, domid: int, *, special: bool = False, limit: int = REL_PATH_MAX) -> str:
    """`path`, as domain `domid` says it, in canonical form; `special` lets "@..." through.

    Raises XenstoreError(EINVAL). A path may have `limit` bytes, not counting the
    "/local/domain/<domid>/" before it (canonicalize() in tools/xenstored/core.c).
    """
    if not _WELL_FORMED(path) or (path[0] == "@" and not special):
        raise XenstoreError(errno.EINVAL)
    if path[0] not in "/@":
        path = f"{home(domid)}/{path}"
    prefix = _DOMAIN_PREFIX(path)
    if len(path) - (prefix.end() if prefix else 0) > limit or len(path) > ABS_PATH_MAX:
        raise XenstoreError(errno.EINVAL)
    return path


def parent(path: str) -> str:
    """The path that holds `path`; the root holds itself and, for permissions, "@..."."""
    return path[: max(path.rfind("/"), 0)] or "/"


def names(path: str) -> list[str]:
    """The names on the way down: the root's is empty, a special node is the root's sibling."""
    return path.split("/") if path != "/" else [""]


def ancestry(path: str) -> Iterator[str]:
    """`path`, its parent, and so on up to the root or to its special node."""
    yield path
    while (cut := path.rfind("/")) > 0:
        path = path[:cut]
        yield path
    if cut == 0 and path != "/":
        yield "/"
