/*
 * The runtime of our freestanding 64-bit PV guests. A guest is a `void guest_main(void)`: it runs
 * on the boot vCPU, with the console, the trap table and event upcalls ready.
 */
#pragma once

#include "hypercall.h"

#define VIRT_BASE 0xffffffff80000000ul
#define MAX_CPUS LEGACY_MAX_VCPUS
#define STACK_SIZE 16384ul
#define NR_PORTS 4096
#define US 1000ul
#define MS 1000000ul
#define SECOND 1000000000ul
/* What another vCPU or the host does in a moment it may do so late: the machine may be busy. */
#define PATIENCE (120 * SECOND)

/* What a trap or an event upcall interrupted, as lib/start.S stores it. */
struct regs {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    u64 vector, error_code, rip, cs, rflags, rsp, ss;
};
#define from_user(regs) (((regs)->cs & 3) == 3)

void guest_main(void);

/* ---- start.c ---- */
extern struct start_info *start_info;
extern struct shared_info *shared_info;
extern char stacks[MAX_CPUS][STACK_SIZE];

/* The vCPU that runs this, told by its stack. */
static inline u32 this_cpu(void)
{
    return (u32)(((u64)__builtin_frame_address(0) - (u64)stacks) / STACK_SIZE);
}

static inline struct vcpu_info *this_vcpu(void)
{
    return &shared_info->vcpu_info[this_cpu()];
}

/* The value of word `name=value` of the command line, decimal or 0x hexadecimal. */
u64 option(const char *name, u64 otherwise);

/* Ends the domain with SHUTDOWN_* `reason`. */
__attribute__((noreturn)) void shutdown(u32 reason);

/* Prints "FAILURE: ..." and crashes the domain. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

/* Fails with the condition's text, file and line. */
#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail("%s:%d: %s", __FILE_NAME__, __LINE__, #condition);                                \
    } while (0)

/* Fails unless two numbers are the same, and says which they are. */
#define check_equal(got, wanted)                                                                   \
    do {                                                                                           \
        u64 got_ = (u64)(got), wanted_ = (u64)(wanted);                                            \
        if (got_ != wanted_)                                                                       \
            fail("%s:%d: %s is %#lx, not %s (%#lx)", __FILE_NAME__, __LINE__, #got, got_,          \
                 #wanted, wanted_);                                                                \
    } while (0)

/* ---- string.c ---- */
void *memcpy(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int byte, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t most);

/* ---- format.c: %c %s %d %u %x %p, flags - 0 #, width or *, .precision of %s, lengths l and ll -- */
int format(char *to, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
int vformat(char *to, size_t size, const char *format, va_list args);

/* ---- console.c ---- */
void console_init(void);
void console_write(const char *bytes, size_t count);
size_t console_read(char *to, size_t most); /* what is there now, does not wait */
bool console_has_input(void);
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- traps.c ---- */
typedef bool (*trap_handler)(struct regs *); /* true: dealt with, go on at regs->rip */
extern trap_handler trap_hook;               /* asked before the fatal dump; NULL: none */
extern const u64 trap_stubs[256];            /* start.S: where each vector enters */
void traps_init(void);
void trap_table(struct trap_info table[257]); /* the runtime's own, terminated */

/*
 * One instruction that may trap: GUARDED("ud2") inside an asm volatile, after probe_arm(). A trap
 * in it is kept in `probe` and the code goes on after it. vector is NO_TRAP if there was none.
 */
#define NO_TRAP 0xffff
struct probe {
    u64 resume;
    u64 vector, error_code, rip, cs, rflags, cr2;
};
extern struct probe probe;
#define GUARDED(instruction)                                                                       \
    "movq $771f, probe(%%rip)\n\t" instruction "\n771:\n\tmovq $0, probe(%%rip)\n\t"
static inline void probe_arm(void)
{
    probe.vector = NO_TRAP;
    barrier();
}
u64 probe_read(const void *va);           /* load 8 bytes, guarded */
void probe_write(void *va, u64 value);    /* store 8 bytes, guarded */

/* ---- events.c ---- */
typedef void (*event_handler)(evtchn_port_t);
void events_init(void);
void upcalls_off(void);
void upcalls_on(void);                                        /* delivers what is pending */
long evtchn_bind_virq(u32 virq, u32 vcpu);                    /* port or -errno, as the next three */
long evtchn_bind_ipi(u32 vcpu);
long evtchn_alloc_unbound(u32 remote_domid);
long evtchn_bind_interdomain(u32 remote_domid, evtchn_port_t remote);
long evtchn_send(evtchn_port_t port);
long evtchn_unmask(evtchn_port_t port);
long evtchn_close(evtchn_port_t port);
void event_handle(evtchn_port_t port, event_handler handler); /* set the handler and unmask */
void event_mask(evtchn_port_t port);
bool event_is_pending(evtchn_port_t port);
void event_clear(evtchn_port_t port);

/* ---- time.c ---- */
u64 now(void);               /* system time, ns */
extern volatile u64 timer_ticks; /* VIRQ_TIMER upcalls on the boot vCPU so far */
void timer_init(void);
void timer_set(u64 deadline_ns);
/* Blocks the boot vCPU until done() or the time is over; the last done(). */
bool wait_for(bool (*done)(void), u64 timeout_ns);

/* ---- xenstore.c: each returns a reply's length in bytes, or fails the guest on a broken ring --- */
#define XS_FAILED (-1)
#define XS_NO_TRANSACTION 0
void xenstore_init(void);
long xs_request(u32 type, u32 tx, const char *payload, size_t bytes, char *reply, size_t size);
long xs_read(u32 tx, const char *path, char *to, size_t size);
long xs_directory(u32 tx, const char *path, char *to, size_t size); /* NUL-separated names */
bool xs_write(u32 tx, const char *path, const char *value);
bool xs_rm(u32 tx, const char *path);
u32 xs_transaction_start(void);
bool xs_transaction_end(u32 tx, bool commit);
bool xs_watch(const char *path, const char *token);
bool xs_unwatch(const char *path, const char *token);
bool xs_watch_fires(const char *path, const char *token, u64 timeout_ns); /* takes the event */
extern char xs_error[32]; /* the name of the last XS_ERROR */

/* ---- xenbus.c: a device's two ends; fails the guest where its nodes cannot be used ---- */
struct xenbus_device {
    char frontend[64], backend[64]; /* their directories */
};
void xenbus_find(struct xenbus_device *device, const char *frontend);
/* The frontend's node `key`. */
void xenbus_say(const struct xenbus_device *device, const char *key, const char *value);
void xenbus_put(const struct xenbus_device *device, const char *key, u32 value);
/* The backend's state. */
bool xenbus_is(const struct xenbus_device *device, u32 state);
void xenbus_await(const struct xenbus_device *device, u32 state);

/* ---- memory.c ---- */
#define PTE_RO (PTE_PRESENT | PTE_USER | PTE_ACCESSED)
#define PTE_RW (PTE_RO | PTE_WRITE | PTE_DIRTY)
#define pte(mfn, flags) (((u64)(mfn) << PAGE_SHIFT) | (flags))

u64 pfn_to_mfn(u64 pfn);
u64 va_to_mfn(const void *va);           /* of an address in the bootstrap mapping */
void *mfn_to_va(u64 mfn);                /* the bootstrap mapping of one of the first frames */
u64 *l1_entry(u64 va);                   /* the mapped entry of a VA of the bootstrap tables */
u64 entry_ma(const u64 *entry);          /* the machine address of a mapped entry */
long map_page(u64 va, u64 entry);        /* update_va_mapping with INVLPG */
long set_entry(u64 ma, u64 value);       /* one mmu_update */
long pin_table(u32 level, u64 mfn);
long unpin_table(u64 mfn);
long new_baseptr(u32 cmd, u64 mfn);      /* MMUEXT_NEW_BASEPTR or _NEW_USER_BASEPTR */
long make_read_only(void *page);
long make_writable(void *page);

/* ---- grants.c ---- */
extern volatile struct grant_entry_v1 *grants; /* 512 of them; the first 8 are reserved */
void grants_init(void);
/* Entry `ref` says that `domid` may use the page, with GTF_* `flags`. */
void grant_page(u32 ref, u32 domid, const void *page, u32 flags);
long grant_table_op(u32 op, void *args, u32 count);

/* ---- smp.c ---- */
u32 cpu_count(void);                                 /* vCPUs that exist, at most MAX_CPUS */
long cpu_start(u32 cpu, void (*function)(u32 cpu));  /* 0 or -errno; upcalls masked there */
void spin_lock(u32 *lock);
void spin_unlock(u32 *lock);

/* ---- user.c: a user address space of a code page, a stack page and nothing else ---- */
#define USER_CODE 0x400000ul
#define USER_STACK_TOP 0x402000ul
typedef bool (*syscall_handler)(struct regs *); /* true: go on in user mode */
void user_init(const void *code, size_t bytes, syscall_handler handler);
void user_run(u64 argument); /* at USER_CODE, argument in rdi; back when the handler says false */
