"""The Cython structures match the layouts."""

from __future__ import annotations

import pytest

from kvmxen.backends.block.queue import layouts
from kvmxen.xen.abi.blkif import NATIVE, PROTOCOLS, SEGMENT
from tests.unit.xen.abi.test_offsets import offset_of


@pytest.mark.parametrize("name", ["request", "discard", "indirect", "response", "segment"])
def test_structures(name: str) -> None:
    size, offsets = layouts()[name]
    layout = SEGMENT if name == "segment" else PROTOCOLS[NATIVE][name]
    assert layout.sizeof() == size
    assert {field: offset_of(layout, [field]) for field in offsets} == offsets


def test_sizes_of_the_header() -> None:
    for protocol, request, response in (("x86_64-abi", 112, 16), ("x86_32-abi", 108, 12)):
        assert PROTOCOLS[protocol]["request"].sizeof() == request
        assert PROTOCOLS[protocol]["response"].sizeof() == response


def test_a_narrow_structure_is_a_native_one_without_padding() -> None:
    for name in ("request", "discard", "indirect"):
        for field in layouts()[name][1]:
            wide = offset_of(PROTOCOLS[NATIVE][name], [field])
            narrow = offset_of(PROTOCOLS["x86_32-abi"][name], [field])
            assert narrow == (wide - 4 if wide >= 8 else wide)
