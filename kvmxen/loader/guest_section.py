"""The section __xen_guest, with which kernels described themselves before there were ELF notes.

It is text, "KEY=VALUE,KEY=VALUE". Meaning and defaults are those of Xen's own loader
(elf_xen_parse_guest_info() in xen/common/libelf/libelf-dominfo.c).
"""

from __future__ import annotations

import re

from kvmxen.errors import KvmxenError
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.xen.abi.elfnote import NoteType

NAME = b"__xen_guest"
MAX_BYTES = 4096

_STRINGS = {
    "LOADER": NoteType.LOADER,
    "GUEST_OS": NoteType.GUEST_OS,
    "GUEST_VER": NoteType.GUEST_VERSION,
    "XEN_VER": NoteType.XEN_VERSION,
    "PAE": NoteType.PAE_MODE,
    "FEATURES": NoteType.FEATURES,
    "BSD_SYMTAB": NoteType.BSD_SYMTAB,
}
_NUMBERS = {
    "VIRT_BASE": NoteType.VIRT_BASE,
    "VIRT_ENTRY": NoteType.ENTRY,
    "ELF_PADDR_OFFSET": NoteType.PADDR_OFFSET,
    "HYPERCALL_PAGE": NoteType.HYPERCALL_PAGE,
}
# Numbers as in C: hexadecimal, octal, decimal.
_NUMBER = re.compile(r"0[xX]([0-9a-fA-F]{1,16})|(0[0-7]{0,22})|([1-9][0-9]{0,18})", re.ASCII)
_WORD = (1 << 64) - 1


def notes_of(section: bytes | memoryview) -> dict[int, bytes]:
    """The notes equivalent to the text in `section`: descriptors by type.

    Keys unknown to Xen's loader are ignored. Raises KvmxenError, phrased to follow the kernel's
    name.
    """
    text, _, _ = bytes(section[:MAX_BYTES]).partition(b"\0")
    pairs = [part.partition("=")[::2] for part in text.decode("ascii", "replace").split(",")]
    notes = {int(_STRINGS[key]): value.encode() for key, value in pairs if key in _STRINGS}
    numbers = {_NUMBERS[key]: _number(key, value) for key, value in pairs if key in _NUMBERS}
    base = numbers.get(NoteType.VIRT_BASE)
    if base is not None:
        # Kernels of that time have virtual addresses in p_paddr.
        numbers.setdefault(NoteType.PADDR_OFFSET, base)
    if NoteType.HYPERCALL_PAGE in numbers:
        # The value counts pages from the base.
        page = numbers[NoteType.HYPERCALL_PAGE] << PAGE_SHIFT
        numbers[NoteType.HYPERCALL_PAGE] = (base or 0) + page & _WORD
    return notes | {int(kind): value.to_bytes(8, "little") for kind, value in numbers.items()}


def _number(key: str, value: str) -> int:
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise KvmxenError(
            f"says {key}={value} in its section __xen_guest, which is not a number; rebuild it"
        )
    return int(match[match.lastindex or 0], (16, 8, 10)[(match.lastindex or 1) - 1]) & _WORD
