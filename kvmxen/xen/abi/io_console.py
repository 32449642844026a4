"""The console's shared page: two byte rings. Source: xen/include/public/io/console.h."""

from __future__ import annotations

from kvmxen.xen.abi import io

INPUT_SIZE = io.XENCONS_IN_SIZE
OUTPUT_SIZE = io.XENCONS_OUT_SIZE

# Offsets in bytes.
INPUT = 0
OUTPUT = 1024
IN_CONS = 3072
IN_PROD = 3076
OUT_CONS = 3080
OUT_PROD = 3084
