"""The console's shared page: two byte rings. Source: xen/include/public/io/console.h."""

from __future__ import annotations

from construct import Array, Int8ul, Int32ul, Struct

INPUT_SIZE = 1024
OUTPUT_SIZE = 2048

XENCONS_INTERFACE = Struct(
    "in" / Array(INPUT_SIZE, Int8ul),
    "out" / Array(OUTPUT_SIZE, Int8ul),
    "in_cons" / Int32ul,
    "in_prod" / Int32ul,
    "out_cons" / Int32ul,
    "out_prod" / Int32ul,
)

# Offsets in bytes.
INPUT = 0
OUTPUT = 1024
IN_CONS = 3072
IN_PROD = 3076
OUT_CONS = 3080
OUT_PROD = 3084
