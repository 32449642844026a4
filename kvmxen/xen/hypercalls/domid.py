"""The domains that a guest can name: itself, by two numbers, and dom0."""

from __future__ import annotations

import errno

from kvmxen.errors import HypercallError
from kvmxen.xen.abi.xen import DOMID_GUEST, DOMID_SELF

OWN = (DOMID_SELF, DOMID_GUEST)


def check_own(domid: int) -> None:
    """Raise HypercallError(EPERM) if `domid` is not the guest itself."""
    if domid not in OWN:
        raise HypercallError(errno.EPERM)
