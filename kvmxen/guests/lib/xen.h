/*
 * The part of Xen's public ABI that a 64-bit PV guest of ours uses: the numbers of xen/abi/xen.h
 * and xen/abi/io.h, and layouts, which are those of xen/include/public/{xen,arch-x86/xen,arch-x86/xen-x86_64,
 * event_channel,sched,memory,vcpu,callback,version,grant_table}.h and io/{console,xs_wire,xenbus,
 * ring}.h; the asserts and tests/unit/xen/abi/test_structure.py hold them.
 */
#pragma once

#include "xen/abi/io.h"
#include "xen/abi/x86.h"
#include "xen/abi/xen.h"

/* Selectors of the flat segments that Xen keeps in every GDT. */
#define FLAT_KERNEL_CS FLAT_RING3_CS64
#define FLAT_KERNEL_SS FLAT_RING3_SS
#define FLAT_USER_CS FLAT_RING3_CS64
#define FLAT_USER_CS32 FLAT_RING3_CS32
#define FLAT_USER_SS FLAT_RING3_SS

/* Prefix that asks Xen to emulate the instruction after it: only CPUID. */
#define XEN_EMULATE_PREFIX ".byte 0x0f,0x0b,0x78,0x65,0x6e; "

#ifndef __ASSEMBLER__

#include <asm/errno.h>

#include "types.h"

/* ---- event channels ---- */

typedef u32 evtchn_port_t;

struct evtchn_alloc_unbound { u16 dom, remote_dom; evtchn_port_t port; };
struct evtchn_bind_interdomain { u16 remote_dom; evtchn_port_t remote_port, local_port; };
struct evtchn_bind_virq { u32 virq, vcpu; evtchn_port_t port; };
struct evtchn_bind_ipi { u32 vcpu; evtchn_port_t port; };
struct evtchn_bind_vcpu { evtchn_port_t port; u32 vcpu; };
struct evtchn_port { evtchn_port_t port; }; /* close, send, unmask */
struct evtchn_status {
    u16 dom;
    evtchn_port_t port;
    u32 status, vcpu;
    union {
        struct { u16 dom; } unbound;
        struct { u16 dom; evtchn_port_t port; } interdomain;
        u32 virq;
    } u;
};
_Static_assert(sizeof(struct evtchn_status) == 24, "evtchn_status");

/* ---- shared_info ---- */

struct vcpu_time_info {
    u32 version, pad0;
    u64 tsc_timestamp, system_time; /* ticks, ns since boot */
    u32 tsc_to_system_mul;
    int8_t tsc_shift;
    u8 flags, pad1[2];
};

struct vcpu_info {
    u8 evtchn_upcall_pending, evtchn_upcall_mask;
    u64 evtchn_pending_sel;
    u64 cr2, pad;
    struct vcpu_time_info time;
};
_Static_assert(sizeof(struct vcpu_info) == 64, "vcpu_info");

struct shared_info {
    struct vcpu_info vcpu_info[LEGACY_MAX_VCPUS];
    u64 evtchn_pending[64], evtchn_mask[64];
    u32 wc_version, wc_sec, wc_nsec, wc_sec_hi;
    u64 max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation;
};
_Static_assert(offsetof(struct shared_info, wc_version) == 3072, "shared_info");

/* ---- start of day ---- */

struct start_info {
    char magic[32];
    u64 nr_pages;
    u64 shared_info; /* machine address */
    u32 flags;
    u64 store_mfn;
    u32 store_evtchn;
    u64 console_mfn;
    u32 console_evtchn;
    u64 pt_base; /* virtual address */
    u64 nr_pt_frames;
    u64 mfn_list; /* virtual address */
    u64 mod_start, mod_len;
    char cmd_line[MAX_GUEST_CMDLINE];
    u64 first_p2m_pfn, nr_p2m_frames;
};
_Static_assert(offsetof(struct start_info, cmd_line) == 0x80, "start_info");

/* ---- traps, callbacks, vCPUs ---- */

struct trap_info {
    u8 vector, flags; /* flags: who may reach it by `int n` (0 no one, 1 kernel, 3 all) | TI_IF */
    u16 cs;
    u64 address;
};
_Static_assert(sizeof(struct trap_info) == 16, "trap_info");

struct callback_register { u16 type, flags; u64 address; };

struct vcpu_set_singleshot_timer { u64 timeout_abs_ns; u32 flags; };
struct vcpu_set_periodic_timer { u64 period_ns; };

struct cpu_user_regs {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    u32 error_code, entry_vector;
    u64 rip;
    u16 cs, pad0;
    u8 saved_upcall_mask, pad1[3];
    u64 rflags, rsp;
    u16 ss, pad2[3], es, pad3[3], ds, pad4[3], fs, pad5[3], gs, pad6[3];
};
_Static_assert(sizeof(struct cpu_user_regs) == 200, "cpu_user_regs");

struct vcpu_guest_context {
    u8 fpu_ctxt[512];
    u64 flags; /* VGCF_* */
    struct cpu_user_regs user_regs;
    struct trap_info trap_ctxt[256];
    u64 ldt_base, ldt_ents;
    u64 gdt_frames[16], gdt_ents;
    u64 kernel_ss, kernel_sp;
    u64 ctrlreg[8];
    u64 debugreg[8];
    u64 event_callback_eip, failsafe_callback_eip, syscall_callback_eip;
    u64 vm_assist;
    u64 fs_base, gs_base_kernel, gs_base_user;
};
_Static_assert(sizeof(struct vcpu_guest_context) == 5168, "vcpu_guest_context");

/* ---- scheduling ---- */

struct sched_shutdown { u32 reason; };
struct sched_watchdog { u32 id, timeout; /* s */ };
struct sched_poll { const evtchn_port_t *ports; u32 nr_ports; u64 timeout; /* ns, absolute */ };

struct physdev_set_iobitmap { const void *bitmap; u32 nr_ports; };

/* ---- memory ---- */

struct xen_memory_reservation {
    u64 *extent_start; /* frames */
    u64 nr_extents;
    u32 extent_order, mem_flags;
    u16 domid;
};
struct xen_memory_map { u32 nr_entries; void *buffer; };
struct e820_entry { u64 addr, size; u32 type; } __attribute__((packed));
struct xen_machphys_mapping { u64 v_start, v_end, max_mfn; };

struct mmu_update { u64 ptr, val; }; /* ptr: machine address of the entry | MMU_* */

struct mmuext_op {
    u32 cmd;
    union { u64 mfn, linear_addr; } arg1;
    u64 arg2;
};
_Static_assert(sizeof(struct mmuext_op) == 24, "mmuext_op");

struct multicall_entry { u64 op, result, args[6]; };

/* ---- version ---- */

struct xen_feature_info { u32 submap_idx, submap; };

/* ---- grant_table.h ---- */

struct grant_entry_v1 { u16 flags, domid; u32 frame; };
struct gnttab_setup_table { u16 dom; u32 nr_frames; short status; u64 *frame_list; };

/* ---- console and xenstore rings ---- */

struct xencons_interface {
    char in[XENCONS_IN_SIZE], out[XENCONS_OUT_SIZE];
    u32 in_cons, in_prod, out_cons, out_prod;
};
_Static_assert(sizeof(struct xencons_interface) == 3088, "xencons_interface");

struct xenstore_domain_interface {
    char req[XENSTORE_RING_SIZE], rsp[XENSTORE_RING_SIZE];
    u32 req_cons, req_prod, rsp_cons, rsp_prod;
};

struct xsd_sockmsg { u32 type, req_id, tx_id, len; };

/* ---- devices: io/xenbus.h, io/ring.h ---- */

/* What every shared ring begins with; the entries come at RING_ENTRIES. */
struct sring { u32 req_prod, req_event, rsp_prod, rsp_event; };

#endif /* __ASSEMBLER__ */
