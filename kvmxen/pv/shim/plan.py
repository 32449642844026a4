"""A domain's layout, with room for the shim of its vCPUs."""

from __future__ import annotations

from kvmxen.kvm.layout import HOLE_END, PAGE_SIZE, Layout
from kvmxen.pv.shim.abi import constants

_COMMON_FRAMES = 64


def plan(memory: int, vcpus: int, maximum: int = 0) -> Layout:
    """Lay out `memory` bytes of RAM, which may grow to `maximum` bytes, and the shim of `vcpus`
    vCPUs."""
    # One frame of page tables maps a GiB, once for ring 0 and once for the kernel.
    tables = 2 * ((max(memory, maximum) + HOLE_END >> 30) + 2)
    shim = (_COMMON_FRAMES + tables) * PAGE_SIZE + vcpus * constants()["VCPU_SIZE"]
    return Layout.plan(memory, vcpus, maximum, shim)
