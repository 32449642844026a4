/* Code that is run with all registers given, and what it may be. */
#include "sequence.h"
#include "xen.h"

    /* For strings, where there are no macros. */
    .set fs_base, MSR_FS_BASE
    .set gs_base, MSR_GS_BASE
    .set kernel_gs_base, MSR_KERNEL_GS_BASE

    .text
    .global run, run_done
run:                                            /* rdi: code, rsi: struct registers */
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    mov     %rsp, run_sp(%rip)
    mov     %rdi, run_code(%rip)
    mov     %rsi, %rsp
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    pop     %r11
    pop     %r10
    pop     %r9
    pop     %r8
    pop     %rax
    pop     %rcx
    pop     %rdx
    pop     %rsi
    pop     %rdi
    popf
    pop     %rsp
    jmp     *run_code(%rip)
run_done:
    mov     %rsp, after_rsp(%rip)
    mov     $after_rsp, %rsp
    pushf
    push    %rdi
    push    %rsi
    push    %rdx
    push    %rcx
    push    %rax
    push    %r8
    push    %r9
    push    %r10
    push    %r11
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    mov     run_sp(%rip), %rsp
    pushq   $2
    popf
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret

.macro snippet code
    .balign CODE_ROOM
    \code
    jmp     run_done
.endm

    .global kernel_code
    .balign CODE_ROOM
kernel_code:
    snippet "syscall"
    snippet "ud2"
    snippet "int3"
    snippet "xor %ecx, %ecx; div %ecx"
    snippet "int $0x80"
    snippet "int $0x81"
    snippet "int $14"
    snippet ".byte 0xf1"
    snippet "mov (%rbx), %rax"
    snippet "mov %rbp, (%rbx)"
    snippet "jmp *%rbx"
    snippet "mov %ax, %fs"
    snippet "cli"
    snippet "sti"
    snippet ".byte 0x66, 0xfa"
    snippet "hlt"
    snippet "in $0x70, %al"
    snippet "out %al, $0x80"
    snippet "mov $fs_base, %ecx; rdmsr"
    snippet "mov $gs_base, %ecx; rdmsr"
    snippet "mov $kernel_gs_base, %ecx; rdmsr"
    snippet "mov %cr0, %rax"
    snippet "mov %cr2, %rax"
    snippet "mov %cr3, %rax"
    snippet "clts"
    snippet "fnop"
    snippet "wbinvd"
    snippet "pushf; orl $0x100, (%rsp); popf; nop; nop"
    snippet "mov %ax, %ss"
    snippet "mov $kernel_gs_base, %ecx; xor %edx, %edx; wrmsr"
    snippet ".byte 0xf0; nop"
    snippet "nop"

.macro user_snippet code
    .balign CODE_ROOM
    \code
    mov     $0x77, %eax
    syscall
.endm

    .global user_code, user_code_end
    .balign CODE_ROOM
user_code:
    user_snippet "syscall"
    user_snippet "ud2"
    user_snippet "int3"
    user_snippet "xor %ecx, %ecx; div %ecx"
    user_snippet "int $0x80"
    user_snippet "int $0x81"
    user_snippet "int $14"
    user_snippet ".byte 0xf1"
    user_snippet "mov (%rbx), %rax"
    user_snippet "mov %rbp, (%rbx)"
    user_snippet "jmp *%rbx"
    user_snippet "mov %ax, %fs"
    user_snippet "cli"
    user_snippet "hlt"
    user_snippet "out %al, $0x24"
    user_snippet "mov %cr0, %rax"
    user_snippet "fnop"
    user_snippet "nop"
    .balign CODE_ROOM
user_code_end:

    .bss
    .balign 8
    .global after
after:
    .skip   16 * 8
after_rsp:
    .skip   8
run_sp:
    .skip   8
run_code:
    .skip   8

    .section .note.GNU-stack, "", @progbits
