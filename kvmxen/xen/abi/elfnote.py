"""The ELF notes in which a kernel says how to load it.

Source: xen/include/public/elfnote.h.
"""

from __future__ import annotations

from enum import IntEnum

NOTE_NAME = "Xen"


class NoteType(IntEnum):
    """XEN_ELFNOTE_*: numeric values are 1, 2, 4 or 8 bytes long, strings end with a NUL."""

    INFO = 0
    ENTRY = 1
    HYPERCALL_PAGE = 2
    VIRT_BASE = 3
    PADDR_OFFSET = 4
    XEN_VERSION = 5
    GUEST_OS = 6
    GUEST_VERSION = 7
    LOADER = 8
    PAE_MODE = 9
    FEATURES = 10
    BSD_SYMTAB = 11
    HV_START_LOW = 12
    L1_MFN_VALID = 13
    SUSPEND_CANCEL = 14
    INIT_P2M = 15
    MOD_START_PFN = 16
    SUPPORTED_FEATURES = 17
    PHYS32_ENTRY = 18
    PHYS32_RELOC = 19
