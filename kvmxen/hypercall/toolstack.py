"""Hypercalls that only dom0 may make: those of its toolstack, and those for the whole machine."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvmxen.errors import HypercallError

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu


def refuse(cpu: Cpu) -> int:
    """Raise HypercallError(EPERM), as Xen's XSM_PRIV does for a domU."""
    raise HypercallError(errno.EPERM)
