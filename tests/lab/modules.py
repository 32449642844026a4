"""A Debian kernel and the modules that the lab needs, in the order of loading."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from dataclasses import dataclass

from kvmxen.domain.modules import dependencies
from tests import packages


@dataclass(frozen=True)
class Module:
    """A module: its file's name without the suffix of a compression, and the file to load."""

    name: str
    image: bytes


def modules(version: str, wanted: Iterable[str]) -> list[Module]:
    """The modules `wanted` of packages.debian_kernel(version), each after those that it needs.

    Raises Unavailable.
    """
    builtin = packages.builtin_modules(version)
    found: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in found or name in builtin:
            return
        path = packages.debian_module(version, name)
        data = path.read_bytes()
        image = lzma.decompress(data) if path.suffix == ".xz" else data
        for needed in dependencies(image):
            add(needed)
        found[name] = Module(f"{name}.ko", image)

    for name in wanted:
        add(name)
    return list(found.values())
