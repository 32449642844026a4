"""start_info: the structure whose address a PV guest finds in RSI when it starts.

Source: struct start_info in xen/include/public/xen.h, as a 64-bit guest sees it.
"""

from __future__ import annotations

import struct
from enum import IntFlag

MAX_GUEST_CMDLINE = 1024


class StartInfoFlags(IntFlag):
    """SIF_*"""

    PRIVILEGED = 1 << 0
    INITDOMAIN = 1 << 1
    MULTIBOOT_MOD = 1 << 2
    MOD_START_PFN = 1 << 3
    VIRT_P2M_4TOOLS = 1 << 4


# All fields of struct start_info, in order; 4x is the padding after 32-bit fields.
START_INFO = struct.Struct(f"<32sQQI4xQI4xQI4xQQQQQ{MAX_GUEST_CMDLINE}sQQ")
