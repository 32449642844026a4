"""The part of xen.h that Cython modules use."""

from libc.stdint cimport uint64_t


cdef extern from "xen/abi/xen.h":
    const uint64_t MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD
    const uint64_t VGCF_in_syscall
    enum:
        FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS
        GNTST_okay, GNTST_general_error, GNTST_bad_gntref, GNTST_bad_page, GNTST_bad_copy_arg
        GNTST_eagain
        GNTTAB_NR_RESERVED_ENTRIES
        GTF_permit_access, GTF_transitive, GTF_type_mask, GTF_readonly, GTF_reading, GTF_writing
        GTF_sub_page
        VCPU_INFO_SIZE, VCPU_INFO_UPCALL_MASK, VCPU_INFO_UPCALL_PENDING
        XEN_FIRST_SLOT, XEN_SLOTS
