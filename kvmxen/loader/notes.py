"""Interprets Xen's ELF notes, and rejects those that no PV guest can have.

Meaning and defaults are those of Xen's own loader (xen/common/libelf/libelf-dominfo.c). Every
KvmxenError here is phrased to follow the kernel's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvmxen.errors import KvmxenError
from kvmxen.kvm.layout import PAGE_SIZE
from kvmxen.xen.abi import xen
from kvmxen.xen.abi.elfnote import NoteType

_LOWER_END = 1 << 47
_VA_END = 1 << 64

# The features that a kernel may require with "!", by name (xen/include/public/features.h). Xen's
# loader refuses other names, and no guest of ours can be dom0.
_REQUIRABLE = frozenset(
    {
        "writable_page_tables",
        "writable_descriptor_tables",
        "auto_translated_physmap",
        "supervisor_mode_kernel",
        "pae_pgdir_above_4gb",
        "hvm_callback_vector",
    }
)


@dataclass(frozen=True)
class XenNotes:
    """A PV kernel's requests to its loader; addresses are virtual unless stated otherwise.

    Subtracting `paddr_offset` from the ELF's p_paddr gives a pseudo-physical address, which is
    mapped from `virt_base` on. `required` are the features that the kernel cannot do without.
    """

    entry: int
    virt_base: int
    paddr_offset: int
    hypercall_page: int | None
    init_p2m: int | None
    mod_start_pfn: bool
    required: frozenset[str]
    loader: str
    guest_os: str
    xen_version: str

    @property
    def virt_offset(self) -> int:
        """The offset from an ELF p_paddr to the virtual address where it is mapped."""
        return self.virt_base - self.paddr_offset


def interpret(descs: dict[int, bytes], e_entry: int) -> XenNotes:
    """The meaning of the notes `descs`; `e_entry` is the ELF header's entry, the default.

    Raises KvmxenError if they are not those of a PV kernel.
    """

    def number(kind: NoteType) -> int | None:
        desc = descs.get(kind)
        if desc is None:
            return None
        if len(desc) not in (1, 2, 4, 8):
            raise KvmxenError(
                f"has a Xen {kind.name} note of {len(desc)} bytes, not a number; rebuild it"
            )
        return int.from_bytes(desc, "little")

    def string(kind: NoteType) -> str:
        return descs.get(kind, b"").split(b"\0", 1)[0].decode("ascii", "replace")

    def default(value: int | None, otherwise: int) -> int:
        return otherwise if value is None else value

    entry, virt_base = number(NoteType.ENTRY), number(NoteType.VIRT_BASE)
    paddr_offset = number(NoteType.PADDR_OFFSET)
    if number(NoteType.PHYS32_ENTRY) is not None and entry is None and virt_base is None:
        raise KvmxenError(
            "is a PVH-only kernel; kvmxen boots 64-bit PV kernels (in Linux: CONFIG_XEN_PV)"
        )
    if paddr_offset is not None and virt_base is None:
        raise KvmxenError("has a Xen PADDR_OFFSET note but no VIRT_BASE; rebuild it")
    features = string(NoteType.FEATURES).split("|")
    return XenNotes(
        entry=default(entry, e_entry),
        virt_base=default(virt_base, 0),
        paddr_offset=default(paddr_offset, 0),
        hypercall_page=number(NoteType.HYPERCALL_PAGE),
        init_p2m=number(NoteType.INIT_P2M),
        mod_start_pfn=bool(number(NoteType.MOD_START_PFN)),
        required=frozenset(name[1:] for name in features if name.startswith("!")),
        loader=string(NoteType.LOADER),
        guest_os=string(NoteType.GUEST_OS),
        xen_version=string(NoteType.XEN_VERSION),
    )


def is_guest_range(start: int, end: int) -> bool:
    """Whether virtual [start, end) is canonical, does not wrap and avoids Xen's slots."""
    # Xen's slots are the first of the upper half.
    return 0 <= start < end <= _LOWER_END or xen.HYPERVISOR_VIRT_END <= start < end <= _VA_END


def check(notes: XenNotes, start: int, end: int) -> None:
    """Raise KvmxenError if `notes` ask for what a kernel at physical [start, end) cannot have.

    `start` and `end` are ELF p_paddr values; `end` is the first past the kernel's last byte.
    """
    if not notes.loader.startswith("generic") and not notes.guest_os.startswith("linux"):
        raise KvmxenError(
            f"asks for loader {notes.loader!r} and guest OS {notes.guest_os!r}; "
            "kvmxen, as Xen, loads those for the generic loader and Linux"
        )
    if not notes.xen_version.startswith("xen-3.0"):
        raise KvmxenError(
            f"was built for Xen version {notes.xen_version!r}; kvmxen loads those for xen-3.0"
        )
    if refused := sorted(notes.required - _REQUIRABLE):
        raise KvmxenError(
            f"cannot run without {', '.join(map(repr, refused))}, which kvmxen does not offer; "
            "use a kernel for unprivileged domains"
        )
    kernel_start, kernel_end = start + notes.virt_offset, end + notes.virt_offset
    if kernel_start < notes.virt_base:
        raise KvmxenError(
            f"has a Xen PADDR_OFFSET note, {notes.paddr_offset:#x}, above its first segment, "
            f"{start:#x}; rebuild it"
        )
    if notes.virt_base % PAGE_SIZE or not is_guest_range(notes.virt_base, kernel_end):
        raise KvmxenError(
            f"has a Xen VIRT_BASE note, {notes.virt_base:#x}, that puts it where no guest can be "
            f"({kernel_start:#x} to {kernel_end:#x}) or not at a page; rebuild it"
        )
    if not kernel_start <= notes.entry < kernel_end:
        raise KvmxenError(
            f"has its Xen entry, {notes.entry:#x}, outside of what is loaded "
            f"({kernel_start:#x} to {kernel_end:#x}); rebuild it"
        )
    page = notes.hypercall_page
    if page is not None and (
        page % PAGE_SIZE or not kernel_start <= page <= page + PAGE_SIZE <= kernel_end
    ):
        raise KvmxenError(
            f"has its Xen hypercall page, {page:#x}, outside of what is loaded "
            f"({kernel_start:#x} to {kernel_end:#x}) or not at a page; rebuild it"
        )
    p2m = notes.init_p2m
    if p2m is not None and (
        p2m % PAGE_SIZE
        or not is_guest_range(p2m, p2m + PAGE_SIZE)
        or notes.virt_base <= p2m < kernel_end
    ):
        raise KvmxenError(
            f"asks by its Xen INIT_P2M note for its p2m list at {p2m:#x}, where it does not fit; "
            "rebuild it"
        )
