/* The user side: copied to USER_CODE. rax is a call's number, rdi what its instruction read. */
#include "xen.h"
#include "iopl.h"

.macro try call, instruction:vararg
    mov     $0x123456, %eax
    mov     $0x70, %edx
    \instruction
    mov     %rax, %rdi
    mov     $\call, %eax
    syscall
.endm

    .section .rodata
    .global user_start, user_end
user_start:
    mov     $START, %eax
    syscall
    try     CLI, cli
    try     IN, in %dx, %al
    try     IN_WORD, in %dx, %ax
    try     OUT, out %al, %dx
    mov     $0x40000000, %eax
    .byte   0x0f, 0x0b, 0x78, 0x65, 0x6e        /* XEN_EMULATE_PREFIX */
    cpuid
    mov     %rbx, %rdi
    mov     $CPUID, %eax
    syscall
user_end:
    .section .note.GNU-stack, "", @progbits
