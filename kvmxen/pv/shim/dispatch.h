/* The dispatcher: what it is made of. It runs on a vCPU's part of the shim's memory and keeps
 * nothing anywhere else. Every function that returns `int` returns DONE, or HOST where the host
 * must deal with the trap or hypercall, from its beginning, by its own way: all that is unusual,
 * and every error.
 */
#ifndef KVMXEN_SHIM_DISPATCH_H
#define KVMXEN_SHIM_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "xen/abi/x86.h"
#include "xen/abi/xen.h"
#include "abi.h"
#include "state.h"
#include "types.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

typedef struct shim_frame frame;
typedef struct shim_state state;

enum { DONE, HOST };

#define PAGE_SIZE 4096ul

static inline char *part_of(const frame *f)
{
    return (char *)(f + 1) - VCPU_FRAME_END;
}

static inline state *state_of(const frame *f)
{
    return (state *)(part_of(f) + VCPU_STATE);
}

/* The parts lie one behind the other, by the vCPUs' numbers. */
static inline state *state_of_vcpu(state *s, u64 index)
{
    return (state *)((char *)s + (index - s->index) * VCPU_SIZE);
}

static inline const struct shim_domain *domain(void)
{
    return (const struct shim_domain *)(SHIM_VA + SHIM_DOMAIN);
}

/* Of machine memory, which the caller has checked to be the guest's. */
static inline void *machine(u64 gpa)
{
    return (void *)(PHYSMAP_VA + gpa);
}

static inline bool is_ram(u64 mfn)
{
    const struct shim_domain *d = domain();
    return mfn - d->ram_mfn[0] < d->ram_frames[0] || mfn - d->ram_mfn[1] < d->ram_frames[1];
}

static inline u8 *vcpu_info(const state *s)
{
    return machine(s->info_gpa);
}

/* memory.c: guest memory by the kernel's tables. */
u64 *leaf(u64 cr3, u64 va);
u64 *read_only(u64 cr3, u64 va);
void *translate(u64 cr3, u64 va, bool write);
int load(u64 cr3, u64 va, u64 *value);

/* list.c */
int for_each(state *s, frame *f, u32 words, int (*operation)(state *, const u64 *));

/* pagetables.c */
int hypercall_mmu_update(state *s, frame *f);
int hypercall_update_va_mapping(state *s, frame *f);
int pin(u64 mfn, u32 level);
int unpin(const state *s, u64 mfn);
int set_kernel_base(state *s, u64 mfn);
int set_user_base(state *s, u64 mfn);
bool is_table(u64 mfn);

/* mmuext.c */
int hypercall_mmuext_op(state *s, frame *f);

/* segments.c: of the tables that the CPU has. */
u64 descriptor(const frame *f, u64 selector);
bool may_return_to(const frame *f, u64 cs, u64 ss);
int hypercall_set_segment_base(state *s, frame *f);

/* frames.c */
int bounce(state *s, frame *f, const struct shim_handler *handler, const u64 *error_code);
int hypercall_iret(state *s, frame *f);

/* hypercalls.c */
int hypercall(state *s, frame *f);

/* m2p.c */
int read_xen_m2p(const state *s, frame *f);

/* privileged.c */
int general_protection(state *s, frame *f);
int invalid_opcode(state *s, frame *f);

/* time.c */
u64 system_time(const state *s);
int set_singleshot(state *s, u64 deadline, bool future);
int timer_expired(state *s);

/* events.c */
void end_interrupt(void);
void interrupt(u32 vcpu);
bool raise_port(state *s, u32 port);
int send(state *s, u32 port);
int look(state *s);

/* flush.c */
void serve_flushes(state *s);
int flush_others(state *s, u64 mask);

/* wait.c: in ring 0 */
int block(state *s);
void wake(state *s, frame *f);
void wait(state *s, const frame *f);

/* leave.c: what must happen before the guest goes on. */
void flush_page(state *s, u64 va);
void flush_all(state *s);
void write_msr(state *s, u32 msr, u64 value);
void load_user_gs(state *s, u16 selector, u64 base);
void settle(state *s);

#endif
