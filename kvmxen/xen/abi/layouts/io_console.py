"""Layouts of the structures of kvmxen.xen.abi.io_console, from the same header."""

from __future__ import annotations

from construct import Array, Int8ul, Int32ul, Struct

from kvmxen.xen.abi.io_console import INPUT_SIZE, OUTPUT_SIZE

XENCONS_INTERFACE = Struct(
    "in" / Array(INPUT_SIZE, Int8ul),
    "out" / Array(OUTPUT_SIZE, Int8ul),
    "in_cons" / Int32ul,
    "in_prod" / Int32ul,
    "out_cons" / Int32ul,
    "out_prod" / Int32ul,
)
