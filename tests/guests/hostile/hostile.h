/* The hostile guest: random calls, random values, and the little that keeps it alive. */
#pragma once

#include "guest.h"

#define VCPUS 4       /* at most */
#define ARENA_PAGES 12
#define ARENA_WRITABLE 10 /* pages; then one that is read-only and one that is absent */
#define STRUCT_WORDS 32
#define MULTICALLS 8

struct call {
    u64 nr, args[5];
};

/* ---- values.c ---- */
extern u64 seeds[VCPUS];
extern char arenas[VCPUS][ARENA_PAGES][PAGE_SIZE];
#define arena arenas[this_cpu()]           /* what pointers point to */
u64 draw(void);                            /* the next of the vCPU's xorshift sequence */
u64 draw_value(void);                      /* an extreme, a pointer, a frame, or anything */
bool is_free_mfn(u64 mfn);                 /* RAM that the guest itself does not use */
void arena_map(void);                      /* gives the arena its own frames back */

/* ---- calls.c ---- */
struct call draw_call(void);
void run_call(const struct call *call);
