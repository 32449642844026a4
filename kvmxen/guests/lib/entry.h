/* What start.S and the C files agree on. */
#pragma once

#define BOOT_STACK_SIZE 16384
#define EVENT_UPCALL 256 /* struct regs.vector of an event upcall */
#define USER_SYSCALL 257 /* and of a SYSCALL from user mode */
