"""Hypercalls that only dom0 may make: its toolstack's, and those that concern the machine."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvmxen.errors import HypercallError

if TYPE_CHECKING:
    from kvmxen.cpu import Cpu


def refuse(cpu: Cpu) -> int:
    """EPERM, as Xen's XSM_PRIV is for a domU."""
    raise HypercallError(errno.EPERM)
