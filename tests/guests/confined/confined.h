/* What user code tries (user.S), and what the kernel sees of it. */
#pragma once

#include "xen.h"

/* Traps that an attempt may end in, by vector; and further ends. */
#define DB (1 << TRAP_DEBUG)
#define BP (1 << TRAP_BREAKPOINT)
#define UD (1 << TRAP_INVALID_OPCODE)
#define SS (1 << 12)
#define GP (1 << TRAP_GENERAL_PROTECTION)
#define PF (1 << TRAP_PAGE_FAULT)
#define GIVEN (1 << 30)    /* the vector of the `int n` itself */
#define HARMLESS (1 << 31) /* it does what user code may do */

/* System calls of an attempt that was not stopped, and of one with registers of its own. */
#define SURVIVED 0xdead

#define USER_MAGIC 0x75736572

#ifndef __ASSEMBLER__
#include "guest.h"

struct attempt {
    const char *name;
    u64 offset, ends; /* from user_start; the mask above */
};
extern const struct attempt attempts[], attempts_end[];
extern const char user_start[], user_end[];
extern const char user_read[], user_write[], user_jump[], user_push[], user_syscall_with[];
extern const char user_late_syscall[], user_breakpoint[];
#endif
