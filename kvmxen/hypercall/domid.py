"""The domains that a guest can name: itself, by two numbers, and dom0."""

from __future__ import annotations

import errno

from kvmxen.abi.xen import DOMID_GUEST, DOMID_SELF
from kvmxen.errors import HypercallError

OWN = (DOMID_SELF, DOMID_GUEST)


def check_own(domid: int) -> None:
    """Raise HypercallError(EPERM) if `domid` is not the guest itself."""
    if domid not in OWN:
        raise HypercallError(errno.EPERM)
