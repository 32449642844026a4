/* What the dispatcher and the host share: a part of the state of each vCPU, and what holds for the
 * whole domain. Where the dispatcher runs in the guest kernel's ring 3, that kernel can write all
 * of it but the domain's: the host takes none of it for granted.
 */
#ifndef KVMXEN_SHIM_STATE_H
#define KVMXEN_SHIM_STATE_H

#include <stdint.h>

#define SHIM_HYPERCALLS 64
#define SHIM_TRAPS 48
#define SHIM_VECTORS 32
#define SHIM_CALLBACKS 8
#define SHIM_L4_SLOTS 4
#define SHIM_INVLPGS 16
#define SHIM_CPUIDS 64
#define SHIM_PORTS 4096
/* So many irets in a row to one place are an event loop, the host's, if before each the vCPU sent an
 * event to itself that is due there. */
#define SHIM_EVENT_LOOP 16

/* The registers at a trap, as the entries push them; ends at VCPU_FRAME_END. */
struct shim_frame {
    /* Of a list of operations, how many the dispatcher did before it left the rest to the host. */
    uint64_t done;
    uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rcx, rdx, rsi, rdi, rax;
    uint64_t cr2, vector, error_code;
    uint64_t rip, cs, rflags, rsp, ss;
};

/* A handler of the guest's kernel; address 0 where there is none. */
struct shim_handler {
    uint64_t address;
    uint64_t mask_events;
};

/* An answer of the host to the CPUID of the guest's kernel. */
struct shim_cpuid {
    uint32_t leaf, subleaf;
    uint32_t subleaf_mask;          /* 0 where the sub-leaf does not matter */
    uint32_t eax, ebx, ecx, edx;
};

/* At VCPU_STATE. The user gate reads kernel_cr3 at offset 0, the way to user code user_cr3 at 8. */
struct shim_state {
    uint64_t kernel_cr3, user_cr3;  /* gpa of the L4 tables, 0 for none */
    uint64_t kernel_sp;
    uint64_t info_gpa;              /* the vcpu_info */
    uint64_t cr0, loaded_cr0;
    uint64_t index;                 /* the vCPU's number */
    uint8_t kernel_mode;            /* what the guest runs in, or was in when it trapped */
    uint8_t look;                   /* the host wants an exit at the next interrupt */
    uint8_t waiting;                /* the guest waits for an event; only in ring 0 */
    uint8_t outside;                /* whatever brings it back looks at `look` and `flushes_asked` */
    uint32_t flushes_asked, flushes_done;   /* by other vCPUs */
    uint8_t iopl;                   /* 0 to 3: from which ring port I/O, cli and sti are allowed */
    uint8_t architectural_iopl;     /* iret sets it, and frames show it; the kernel is in ring 0 */
    uint8_t sent_to_itself;         /* an event, since the last iret */
    struct shim_handler traps[SHIM_VECTORS];
    struct shim_handler callbacks[SHIM_CALLBACKS];  /* by CALLBACKTYPE_* */
    uint64_t hypercalls[SHIM_HYPERCALLS];   /* done by the dispatcher, by number */
    uint64_t taken[SHIM_TRAPS];             /* traps likewise */
    uint64_t delivered;                     /* events likewise */
    /* Deadlines in ns of system time, 0 for none: the guest's singleshot timer, the earliest of the
     * host's, and the one that the LAPIC has. */
    uint64_t singleshot, others, armed;
    uint32_t timer_port;            /* VIRQ_TIMER's, 0 for none */
    uint32_t time_version;          /* of the guest's copy of the vcpu_info's time */
    /* For how many ns it slept in the dispatcher; the system time since when it does, or 0; and
     * what it will go on with. */
    uint64_t slept, asleep_since;
    struct shim_frame sleeper;
    /* The last iret with an upcall due of its own making: where to, and how many there were in a
     * row. */
    uint64_t upcall_rip, upcall_rsp;
    uint32_t upcalls;
    uint32_t cpuids;                /* answers that are there */
    struct shim_cpuid cpuid[SHIM_CPUIDS];
    /* Of the entry that is being dealt with: what must happen before the guest goes on. */
    uint64_t loaded_cr3;            /* in ring 3, what the dispatcher itself runs on */
    uint8_t loaded_kernel_mode;     /* whose cr3 and GS base the CPU has */
    uint8_t flush;
    uint32_t invlpgs;
    uint64_t invlpg[SHIM_INVLPGS];
    uint8_t loads_gs;
    uint16_t gs;                    /* the user's, a selector that may be loaded */
    uint32_t msr;                   /* 0 for none */
    uint64_t msr_value;
};

/* At SHIM_DOMAIN, written before the guest starts, but for its end. */
struct shim_domain {
    uint64_t in_ring3;              /* where the dispatcher runs */
    uint64_t vcpus;
    uint64_t ram_mfn[2], ram_frames[2];
    uint64_t m2p_gpa, types_gpa;    /* the m2p table; the type of each frame (types.h) */
    uint64_t xen_version;
    uint64_t shared_info_gpa;
    uint64_t tsc_per_ns;            /* in units of 2^-32 */
    uint64_t sets_fs_base;          /* whether ring 3 can, by wrfsbase */
    /* L4 entries from slot 256 on: of a pinned table that is not in use, for the kernel, for user
     * code, and for both in one table. */
    uint64_t pinned_slots[SHIM_L4_SLOTS];
    uint64_t kernel_slots[SHIM_L4_SLOTS];
    uint64_t user_slots[SHIM_L4_SLOTS];
    uint64_t shared_slots[SHIM_L4_SLOTS];
    /* PORT_* for each event channel: the host changes it. */
    uint8_t ports[SHIM_PORTS];
};

#endif
