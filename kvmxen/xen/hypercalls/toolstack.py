"""Hypercalls that only dom0 may make: those of its toolstack, and those for the whole machine."""

from __future__ import annotations

import errno

from kvmxen.errors import HypercallError
from kvmxen.xen.hypercalls.caller import Caller


def refuse(cpu: Caller) -> int:
    """Raise HypercallError(EPERM), as Xen's XSM_PRIV does for a domU."""
    raise HypercallError(errno.EPERM)
