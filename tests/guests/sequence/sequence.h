/* Random sequences of what the dispatcher knows, and all that they leave behind. */
#pragma once

#define CODE_ROOM 32 /* bytes of a snippet */
#define NR_SNIPPETS 32

#ifndef __ASSEMBLER__
#include "guest.h"

#define ARG_PAGES 4 /* two to write, one to read, one that is absent */
#define ARG_BYTES (ARG_PAGES * PAGE_SIZE)
#define NR_DATA 4
#define WINDOW_SLOT 2

/* ---- draw.c ---- */
extern u64 seed;
extern bool verbose;
extern bool shared;         /* a table may be the kernel's and its user code's */
extern u64 digest;
u64 draw(void);
u64 below(u64 limit);
bool one_in(u64 n);
void note(u64 value); /* into the digest */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- tables.c ---- */
extern char args[ARG_BYTES];     /* what hypercalls are told, and what they tell */
extern char out[2 * PAGE_SIZE];
void tables_init(void);
void tables_digest(void);
void m2p_digest(void);
u64 draw_root(void);        /* the frame of an L4 table that has the kernel and user code in it */
u64 draw_entry(u32 level);  /* a value for a table of that level: one that works, or is refused */
u64 draw_user_root(void);   /* one that is not another vCPU's */
void draw_target(u64 *ma, u32 *level);
void draw_table(u64 *mfn, u32 *level);
u64 draw_window(void);      /* an address that tables of ours may map */
u64 draw_va(void);          /* that, or one that nothing maps */
u64 draw_data_mfn(void);
void write_table(void);     /* as a kernel does it with a table that is not in use */

/* ---- calls.c ---- */
struct call { u64 number, args[6]; };
struct call draw_call(bool in_list);
void port_init(void);
void send_event(void);
void change_traps(void);

/* ---- run.S, run.c ---- */
/* Popped in this order; `stack` last. */
struct registers {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, rflags, rsp;
};
void run(const void *code, const struct registers *in);
extern struct registers after;
extern const char run_done[];
extern const char kernel_code[], user_code[], user_code_end[]; /* of CODE_ROOM bytes each */

void run_init(void);
void do_call(void);
void do_kernel(void);
void do_user(void);
void do_iret(void);
#endif
