"""The structures of kvmxen.xen.abi for construct: it parses, builds and shows them by name."""

from __future__ import annotations

import struct
from typing import Any

from construct import Array, Bytes, Construct, FormatField, Padding, Struct

from kvmxen.xen.abi import structure


def described(layout: structure.Layout[Any]) -> Struct:
    """The structure as `layout` has it; paddings have no names."""
    members, at = [], 0
    for name, (offset, codes) in layout.fields.items():
        if offset > at:
            members.append(Padding(offset - at))
        members.append(name / _described(layout.structure.fields[name], layout.width))
        at = offset + struct.calcsize(codes)
    return Struct(*members, Padding(layout.size - at))


def _described(field: structure.Field[Any], width: int) -> Construct:
    match field:
        case structure.Nested():
            return described(field.structure.layout(width))
        case structure.Array():
            return Array(field.length, _described(field.element, width))
        case structure.Bytes():
            return Bytes(field.length)
    return FormatField("<", field.place(width)[0])
