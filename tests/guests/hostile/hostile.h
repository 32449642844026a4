/* The hostile guest: random calls, random values, and the little that keeps it alive. */
#pragma once

#include "guest.h"

#define ARENA_PAGES 12
#define ARENA_WRITABLE 10 /* pages; then one that is read-only and one that is absent */
#define STRUCT_WORDS 32
#define MULTICALLS 8

struct call {
    u64 nr, args[5];
};

/* ---- values.c ---- */
extern u64 seed;
extern char arena[ARENA_PAGES][PAGE_SIZE]; /* what pointers point to */
u64 draw(void);                            /* the next of a xorshift sequence */
u64 draw_value(void);                      /* an extreme, a pointer, a frame, or anything */
bool is_free_mfn(u64 mfn);                 /* RAM that the guest itself does not use */
void arena_map(void);                      /* gives the arena its own frames back */

/* ---- calls.c ---- */
struct call draw_call(void);
void run_call(const struct call *call);
