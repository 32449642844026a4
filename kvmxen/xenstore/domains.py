"""The operations on domains: introducing them, acting for another, features and quotas.

Meaning and errors are those of tools/xenstored/domain.c. A domain exists for xenstore once dom0
has introduced it or named it in a permission.
"""

from __future__ import annotations

import errno

from kvmxen.xen.abi import xen
from kvmxen.xenstore.domain import FEATURES, Domain
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import home
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.quota import QUOTA_NAMES
from kvmxen.xenstore.request import Request, domain_id, number

_OK = b"OK\0"
_UINT_MAX = 0xFFFFFFFF


def introduce(request: Request) -> bytes:
    """Check the frame and the port only: the domain's ring is already known."""
    if len(request.strings) < 3:
        raise XenstoreError(errno.EINVAL)
    domid, _, port = request.strings[:3]
    introduced = domain_id(domid)
    if number(port) <= 0:
        raise XenstoreError(errno.EINVAL)
    request.session.state.introduce(introduced)
    return _OK


def release(request: Request) -> bytes:
    request.session.state.release(_guest(request).domid)
    return _OK


def resume(request: Request) -> bytes:
    _guest(request).shutdown = False
    return _OK


def set_target(request: Request) -> bytes:
    if len(request.strings) < 2:
        raise XenstoreError(errno.EINVAL)
    domid, target = map(domain_id, request.strings[:2])
    domain, other = _introduced(request, domid), _introduced(request, target)
    domain.target = other
    return _OK


def get_domain_path(request: Request) -> bytes:
    return home(domain_id(request.one)).encode() + b"\0"


def is_domain_introduced(request: Request) -> bytes:
    domid = domain_id(request.one)
    known = domid == xen.DOMID_SELF or request.session.state.is_introduced(domid)
    return b"T\0" if known else b"F\0"


def get_feature(request: Request) -> bytes:
    strings = request.strings
    domain = request.session.domain
    if strings:
        if domain.domid != DOM0:
            raise XenstoreError(errno.EACCES)
        if len(strings) > 1:
            raise XenstoreError(errno.EINVAL)
        domain = _existing(request, strings[0])
    return b"%d\0" % domain.features


def set_feature(request: Request) -> bytes:
    if len(request.strings) != 2:
        raise XenstoreError(errno.EINVAL)
    domid, value = request.strings
    domain, features = _existing(request, domid), number(value)
    if domain.introduced:
        raise XenstoreError(errno.EBUSY)
    if features & ~int(FEATURES):
        raise XenstoreError(errno.EINVAL)
    domain.features = features
    return _OK


def get_quota(request: Request) -> bytes:
    strings = request.strings
    if len(strings) > 2:
        raise XenstoreError(errno.EINVAL)
    if not strings:
        return " ".join(QUOTA_NAMES).encode() + b"\0"
    state = request.session.state
    quota = _existing(request, strings[0]).quota if len(strings) == 2 else state.quota
    return b"%d\0" % quota.limit(_quota_name(strings[-1]))


def set_quota(request: Request) -> bytes:
    strings = request.strings
    if len(strings) not in (2, 3):
        raise XenstoreError(errno.EINVAL)
    *domid, name, value = strings
    limit = number(value) & _UINT_MAX
    holder = _existing(request, domid[0]) if domid else request.session.state
    # Xen marks a quota that it does not have with UINT_MAX.
    if limit == _UINT_MAX:
        raise XenstoreError(errno.EINVAL)
    holder.quota = holder.quota.with_limit(_quota_name(name), limit)
    return _OK


def _quota_name(name: str) -> str:
    if name not in QUOTA_NAMES:
        raise XenstoreError(errno.EINVAL)
    return name


def _existing(request: Request, text: str) -> Domain:
    domain = request.session.state.domains.get(domain_id(text))
    if domain is None:
        raise XenstoreError(errno.ENOENT)
    return domain


def _introduced(request: Request, domid: int) -> Domain:
    domain = request.session.state.domains.get(domid)
    if domain is None or not domain.introduced:
        raise XenstoreError(errno.ENOENT)
    return domain


def _guest(request: Request) -> Domain:
    """The introduced domain, not dom0, that the payload's only string names."""
    domid = domain_id(request.one)
    if domid == DOM0:
        raise XenstoreError(errno.EINVAL)
    return _introduced(request, domid)
