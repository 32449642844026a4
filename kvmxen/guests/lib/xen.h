/*
 * The part of Xen's public ABI that a 64-bit PV guest of ours uses. Numbers, names and layouts
 * are those of xen/include/public/{xen,arch-x86/xen,arch-x86/xen-x86_64,event_channel,sched,
 * memory,vcpu,callback,version,features}.h and io/{console,xs_wire,xenbus,ring}.h; the asserts hold
 * them.
 */
#pragma once

#include "abi/x86.h"

/* Selectors of the flat segments that Xen keeps in every GDT. */
#define FLAT_KERNEL_CS 0xe033
#define FLAT_KERNEL_SS 0xe02b
#define FLAT_USER_CS 0xe033
#define FLAT_USER_CS32 0xe023
#define FLAT_USER_SS 0xe02b

#define HYPERVISOR_set_trap_table 0
#define HYPERVISOR_mmu_update 1
#define HYPERVISOR_set_gdt 2
#define HYPERVISOR_stack_switch 3
#define HYPERVISOR_set_callbacks 4
#define HYPERVISOR_sched_op_compat 6
#define HYPERVISOR_set_debugreg 8
#define HYPERVISOR_get_debugreg 9
#define HYPERVISOR_update_descriptor 10
#define HYPERVISOR_memory_op 12
#define HYPERVISOR_multicall 13
#define HYPERVISOR_update_va_mapping 14
#define HYPERVISOR_set_timer_op 15
#define HYPERVISOR_event_channel_op_compat 16
#define HYPERVISOR_xen_version 17
#define HYPERVISOR_grant_table_op 20
#define HYPERVISOR_vm_assist 21
#define HYPERVISOR_update_va_mapping_otherdomain 22
#define HYPERVISOR_iret 23
#define HYPERVISOR_vcpu_op 24
#define HYPERVISOR_set_segment_base 25
#define HYPERVISOR_mmuext_op 26
#define HYPERVISOR_sched_op 29
#define HYPERVISOR_callback_op 30
#define HYPERVISOR_event_channel_op 32
#define HYPERVISOR_physdev_op 33

/* Prefix that asks Xen to emulate the instruction after it: only CPUID. */
#define XEN_EMULATE_PREFIX ".byte 0x0f,0x0b,0x78,0x65,0x6e; "

#ifndef __ASSEMBLER__

#include "types.h"

#define DOMID_SELF 0x7ff0
#define LEGACY_MAX_VCPUS 32

enum xen_errno { ENOENT = 2, EFAULT = 14, EEXIST = 17, EINVAL = 22, ENOSPC = 28, ENOSYS = 38 };

/* ---- event channels ---- */

enum { VIRQ_TIMER = 0, VIRQ_DEBUG = 1 };

enum evtchn_op {
    EVTCHNOP_bind_interdomain = 0,
    EVTCHNOP_bind_virq = 1,
    EVTCHNOP_close = 3,
    EVTCHNOP_send = 4,
    EVTCHNOP_status = 5,
    EVTCHNOP_alloc_unbound = 6,
    EVTCHNOP_bind_ipi = 7,
    EVTCHNOP_bind_vcpu = 8,
    EVTCHNOP_unmask = 9,
};

enum {
    EVTCHNSTAT_closed = 0,
    EVTCHNSTAT_unbound = 1,
    EVTCHNSTAT_interdomain = 2,
    EVTCHNSTAT_ipi = 5,
};

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
    char cmd_line[1024];
    u64 first_p2m_pfn, nr_p2m_frames;
};
_Static_assert(offsetof(struct start_info, cmd_line) == 0x80, "start_info");

/* ---- traps, callbacks, vCPUs ---- */

#define TI_IF 4 /* trap_info.flags: deliver with event upcalls masked */

struct trap_info {
    u8 vector, flags; /* flags: who may reach it by `int n` (0 no one, 1 kernel, 3 all) | TI_IF */
    u16 cs;
    u64 address;
};
_Static_assert(sizeof(struct trap_info) == 16, "trap_info");

enum { CALLBACKOP_register = 0 };
enum {
    CALLBACKTYPE_event = 0,
    CALLBACKTYPE_failsafe = 1,
    CALLBACKTYPE_syscall = 2,
    CALLBACKTYPE_sysenter = 5,
    CALLBACKTYPE_syscall32 = 7,
};
#define CALLBACKF_mask_events 1
struct callback_register { u16 type, flags; u64 address; };

enum { SEGBASE_FS = 0 };

enum vcpu_op {
    VCPUOP_initialise = 0,
    VCPUOP_up = 1,
    VCPUOP_down = 2,
    VCPUOP_is_up = 3,
    VCPUOP_set_periodic_timer = 6,
    VCPUOP_stop_periodic_timer = 7,
    VCPUOP_set_singleshot_timer = 8,
    VCPUOP_stop_singleshot_timer = 9,
};

struct vcpu_set_singleshot_timer { u64 timeout_abs_ns; u32 flags; };
struct vcpu_set_periodic_timer { u64 period_ns; };

struct cpu_user_regs {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    u32 error_code, entry_vector;
    u64 rip;
    u16 cs, pad0;
    u8 saved_upcall_mask, pad1[3];
    u64 rflags, rsp, ss, es, ds, fs, gs;
};
_Static_assert(sizeof(struct cpu_user_regs) == 200, "cpu_user_regs");

#define VGCF_in_kernel (1 << 2)

struct vcpu_guest_context {
    u8 fpu[512];
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

enum sched_op {
    SCHEDOP_yield = 0,
    SCHEDOP_block = 1,
    SCHEDOP_shutdown = 2,
    SCHEDOP_poll = 3,
    SCHEDOP_watchdog = 6,
};
enum { SHUTDOWN_poweroff = 0, SHUTDOWN_crash = 3 };
struct sched_shutdown { u32 reason; };
struct sched_watchdog { u32 id, timeout; /* s */ };
struct sched_poll { const evtchn_port_t *ports; u32 nr_ports; u64 timeout; /* ns, absolute */ };

enum { PHYSDEVOP_set_iopl = 6, PHYSDEVOP_set_iobitmap = 7 };
struct physdev_set_iobitmap { const void *bitmap; u32 nr_ports; };

/* ---- memory ---- */

enum memory_op {
    XENMEM_increase_reservation = 0,
    XENMEM_decrease_reservation = 1,
    XENMEM_maximum_reservation = 4,
    XENMEM_memory_map = 9,
    XENMEM_machphys_mapping = 12,
};
struct xen_memory_reservation {
    u64 *extent_start; /* frames */
    u64 nr_extents;
    u32 extent_order, mem_flags;
    u16 domid;
};
struct xen_memory_map { u32 nr_entries; void *buffer; };
struct e820_entry { u64 addr, size; u32 type; } __attribute__((packed));
struct xen_machphys_mapping { u64 v_start, v_end, max_mfn; };

enum { MMU_NORMAL_PT_UPDATE = 0, MMU_PT_UPDATE_PRESERVE_AD = 2 };
struct mmu_update { u64 ptr, val; }; /* ptr: machine address of the entry | MMU_* */

enum mmuext_cmd {
    MMUEXT_PIN_L1_TABLE = 0,
    MMUEXT_UNPIN_TABLE = 4,
    MMUEXT_NEW_BASEPTR = 5,
    MMUEXT_TLB_FLUSH_LOCAL = 6,
    MMUEXT_INVLPG_LOCAL = 7,
    MMUEXT_TLB_FLUSH_MULTI = 8,
    MMUEXT_INVLPG_MULTI = 9,
    MMUEXT_TLB_FLUSH_ALL = 10,
    MMUEXT_INVLPG_ALL = 11,
    MMUEXT_NEW_USER_BASEPTR = 15,
};
struct mmuext_op {
    u32 cmd;
    union { u64 mfn, linear_addr; } arg1;
    u64 arg2;
};
_Static_assert(sizeof(struct mmuext_op) == 24, "mmuext_op");

enum {
    UVMF_TLB_FLUSH = 1,
    UVMF_INVLPG = 2,
    UVMF_ALL = 4,
};

struct multicall_entry { u64 op, result, args[6]; };

/* ---- version ---- */

enum xenver {
    XENVER_version = 0,
    XENVER_extraversion = 1,
    XENVER_capabilities = 3,
    XENVER_get_features = 6,
    XENVER_guest_handle = 8,
};
struct xen_feature_info { u32 submap_idx, submap; };

/* ---- grant_table.h ---- */

#define GTF_permit_access 1
#define GTF_readonly 4
#define GTF_reading 8
#define GTF_writing 16
enum grant_table_op {
    GNTTABOP_map_grant_ref = 0,
    GNTTABOP_unmap_grant_ref = 1,
    GNTTABOP_setup_table = 2,
    GNTTABOP_copy = 5,
    GNTTABOP_set_version = 8,
    GNTTABOP_get_status_frames = 9,
};
struct grant_entry_v1 { u16 flags, domid; u32 frame; };
struct gnttab_setup_table { u16 dom; u32 nr_frames; short status; u64 *frame_list; };

/* ---- console and xenstore rings ---- */

struct xencons_interface {
    char in[1024], out[2048];
    u32 in_cons, in_prod, out_cons, out_prod;
};
_Static_assert(sizeof(struct xencons_interface) == 3088, "xencons_interface");

#define XENSTORE_RING_SIZE 1024
#define XENSTORE_PAYLOAD_MAX 4096

struct xenstore_domain_interface {
    char req[XENSTORE_RING_SIZE], rsp[XENSTORE_RING_SIZE];
    u32 req_cons, req_prod, rsp_cons, rsp_prod;
};

enum xsd_sockmsg_type {
    XS_DIRECTORY = 1,
    XS_READ = 2,
    XS_WATCH = 4,
    XS_UNWATCH = 5,
    XS_TRANSACTION_START = 6,
    XS_TRANSACTION_END = 7,
    XS_GET_DOMAIN_PATH = 10,
    XS_WRITE = 11,
    XS_RM = 13,
    XS_WATCH_EVENT = 15,
    XS_ERROR = 16,
};

struct xsd_sockmsg { u32 type, req_id, tx_id, len; };

/* ---- devices: io/xenbus.h, io/ring.h ---- */

enum xenbus_state {
    XenbusStateInitialising = 1,
    XenbusStateInitWait = 2,
    XenbusStateInitialised = 3,
    XenbusStateConnected = 4,
    XenbusStateClosing = 5,
    XenbusStateClosed = 6,
};

/* What every shared ring begins with; the entries come at RING_ENTRIES. */
struct sring { u32 req_prod, req_event, rsp_prod, rsp_event; };
#define RING_ENTRIES 64

#endif /* __ASSEMBLER__ */
